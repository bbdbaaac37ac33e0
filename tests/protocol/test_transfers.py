"""Writes and reads of many sizes, under every combination of what can be negotiated about them.

The raw initiator holds the target to the negotiated lengths, sequence numbers and offsets.
"""

from __future__ import annotations

import itertools
import random

import pytest

from target.iscsi.parameters import TargetLimits
from tests.support import cdb
from tests.support.clean import assert_idle
from tests.support.iscsi_pdu import Opcode
from tests.support.wire import Wire, wire
from tests.support.wire_initiator import WireInitiator

BLOCKS = (1, 2, 7, 8, 9, 16, 17, 128, 129, 300, 2049)
MEDIUM_BLOCKS = 4096
SWITCHES = list(itertools.product(("Yes", "No"), ("Yes", "No")))
DIGESTS = list(itertools.product(("None", "CRC32C"), ("None", "CRC32C")))
# FirstBurstLength, MaxBurstLength, the initiator's and the target's MaxRecvDataSegmentLength.
LENGTHS = [
    (512, 512, 512, 512),
    (65536, 262144, 8192, 262144),
    (4096, 8192, 262144, 1024),
    (8192, 16384, 65536, 65536),
    (1000, 3001, 777, 513),
]


def check_transfers(w: Wire, session: WireInitiator, seed: int) -> None:
    """Write and read back, at odd places, and hold the medium against a model."""
    rng = random.Random(seed)
    model = bytearray(MEDIUM_BLOCKS * 512)
    for blocks in BLOCKS:
        lba = rng.randrange(MEDIUM_BLOCKS - blocks)
        data = rng.randbytes(blocks * 512)
        model[lba * 512 : lba * 512 + len(data)] = data
        task = session.command(cdb.write16(lba, blocks), data_out=data)
        assert (task.status, task.underflow, task.overflow) == (0, 0, 0)
        start = rng.randrange(MEDIUM_BLOCKS - blocks)
        task = session.command(cdb.read16(start, blocks), read_length=blocks * 512)
        assert (task.status, task.underflow, task.overflow) == (0, 0, 0)
        assert task.data_in == model[start * 512 : (start + blocks) * 512]
    task = session.command(cdb.read16(0, MEDIUM_BLOCKS), read_length=len(model))
    assert task.data_in == model
    assert_idle(w.target)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize(("initial_r2t", "immediate_data"), SWITCHES)
@pytest.mark.parametrize(("header", "data"), DIGESTS)
def test_data_arrives_under_every_negotiation(
    initial_r2t: str, immediate_data: str, header: str, data: str, lengths: tuple[int, ...]
) -> None:
    first, burst, theirs, ours = lengths
    limits = TargetLimits(max_recv_data_segment_length=ours)
    with wire(MEDIUM_BLOCKS * 512, limits=limits) as w:
        session = w.login(
            {
                "InitialR2T": initial_r2t,
                "ImmediateData": immediate_data,
                "HeaderDigest": header,
                "DataDigest": data,
                "FirstBurstLength": str(first),
                "MaxBurstLength": str(burst),
                "MaxRecvDataSegmentLength": str(theirs),
                "MaxOutstandingR2T": "3",
            }
        )
        agreed = session.parameters
        assert (agreed.initial_r2t, agreed.immediate_data) == (
            initial_r2t == "Yes",
            immediate_data == "Yes",
        )
        assert (agreed.first_burst, agreed.max_burst) == (first, burst)
        assert (agreed.receive_max, agreed.send_max) == (theirs, ours)
        check_transfers(w, session, seed=hash(lengths) & 0xFFFF)


@pytest.mark.parametrize("target", [(False, True), (True, True), (False, False), (True, False)])
def test_the_target_may_refuse_unsolicited_data(target: tuple[bool, bool]) -> None:
    initial_r2t, immediate_data = target
    limits = TargetLimits(initial_r2t=initial_r2t, immediate_data=immediate_data)
    with wire(MEDIUM_BLOCKS * 512, limits=limits) as w:
        session = w.login({"InitialR2T": "No", "ImmediateData": "Yes"})
        assert session.parameters.initial_r2t == initial_r2t
        assert session.parameters.immediate_data == immediate_data
        check_transfers(w, session, seed=1)


def test_a_login_that_offers_nothing_gets_the_defaults_of_the_rfc() -> None:
    with wire(MEDIUM_BLOCKS * 512) as w:
        session = w.login(defaults=False)
        assert session.parameters.initial_r2t
        assert session.parameters.immediate_data
        assert session.parameters.max_burst == 262144
        check_transfers(w, session, seed=2)


@pytest.mark.parametrize("r2ts", [1, 2, 3, 5, 8, 9])
def test_so_many_r2ts_are_outstanding(r2ts: int) -> None:
    limits = TargetLimits(max_outstanding_r2t=8)
    with wire(limits=limits) as w:
        session = w.login(
            {
                "MaxOutstandingR2T": str(r2ts),
                "MaxBurstLength": "4096",
                "InitialR2T": "Yes",
                "ImmediateData": "No",
            }
        )
        agreed = min(r2ts, 8)
        write = session.scsi(cdb.write10(0, 128), edtl=65536, write=True)
        waiting = session.exchange(write)
        assert [pdu.opcode for pdu in waiting] == [Opcode.R2T] * agreed
        seen = len(waiting)
        while waiting:
            r2t = waiting.pop(0)
            assert (r2t.buffer_offset, r2t.desired_length) == (4096 * r2t.r2t_sn, 4096)
            out = session.data_out(write, bytes(4096), ttt=r2t.ttt, offset=r2t.buffer_offset)
            new = session.exchange(out)
            if seen < 16:
                assert [(pdu.opcode, pdu.r2t_sn) for pdu in new] == [(Opcode.R2T, seen)]
                waiting += new
            seen += len(new)
        assert (new[0].opcode, new[0].status) == (Opcode.SCSI_RESPONSE, 0)
        assert_idle(w.target)


def test_outstanding_bursts_may_be_interleaved() -> None:
    with wire() as w:
        session = w.login(
            {
                "MaxOutstandingR2T": "4",
                "MaxBurstLength": "4096",
                "InitialR2T": "Yes",
                "ImmediateData": "No",
            }
        )
        data = bytes(range(256)) * 64
        write = session.scsi(cdb.write10(0, 32), edtl=16384, write=True)
        r2ts = session.exchange(write)
        parts = [
            session.data_out(
                write,
                data[r2t.buffer_offset + half * 2048 : r2t.buffer_offset + half * 2048 + 2048],
                offset=r2t.buffer_offset + half * 2048,
                sn=half,
                final=half == 1,
                ttt=r2t.ttt,
            )
            for half in (0, 1)
            for r2t in reversed(r2ts)
        ]
        assert session.one(*parts).status == 0
        assert session.command(cdb.read10(0, 32), read_length=16384).data_in == data


def test_commands_of_several_sessions_do_not_mix() -> None:
    with wire(MEDIUM_BLOCKS * 512) as w:
        sessions = [w.login({"MaxBurstLength": "4096"}) for _ in range(4)]
        data = [bytes([n]) * 65536 for n in range(4)]
        tasks = [
            session.start(cdb.write10(128 * n, 128), data_out=data[n])
            for n, session in enumerate(sessions)
        ]
        for session, task in zip(sessions, tasks, strict=True):
            session.wait(task)
        whole = sessions[0].command(cdb.read10(0, 512), read_length=4 * 65536).data_in
        assert whole == b"".join(data)


def test_a_slow_reader_gets_its_data_in_the_end() -> None:
    """What is on its way stays in the pool's segments until it has been taken."""
    with wire(MEDIUM_BLOCKS * 512) as w:
        session = w.login()
        data = random.Random(5).randbytes(MEDIUM_BLOCKS * 512)
        for lba in range(0, MEDIUM_BLOCKS, 512):
            session.command(cdb.write10(lba, 512), data_out=data[lba * 512 : lba * 512 + 262144])
        session.socket.taking = 0
        task = session.start(cdb.read16(0, MEDIUM_BLOCKS), read_length=len(data))
        assert 0 < w.pool.used <= 128
        while not task.done:
            session.socket.taking = 10_007
            session.socket.pump()
            assert w.pool.used <= 128
            while (pdu := session.socket.next_pdu()) is not None:
                session.process(pdu)
        assert task.data_in == data
        session.socket.taking = None
        assert_idle(w.target)
