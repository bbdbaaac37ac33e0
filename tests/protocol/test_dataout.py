"""Data-Out: sequences with gaps, overlaps, wrong numbers and tags; when the response comes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import cdb
from tests.support.clean import assert_idle
from tests.support.iscsi_pdu import NO_TAG, Opcode, Pdu
from tests.support.stores import HeldStore
from tests.support.wire import Wire, wire
from tests.support.wire_initiator import WireInitiator, rejected, sense_triple
from workers.memory_store import MemoryStore

UNEXPECTED = (0xB, 0x0C, 0x0C)
INCORRECT_AMOUNT = (0xB, 0x0C, 0x0D)
CRC = (0xB, 0x47, 0x05)
OFFSET = (0xB, 0x4B, 0x05)
OUT_OF_RANGE = (0x5, 0x21, 0x00)

SOLICITED = {"InitialR2T": "Yes", "ImmediateData": "No", "MaxBurstLength": "4096"}
UNSOLICITED = {"InitialR2T": "No", "ImmediateData": "Yes", "FirstBurstLength": "4096"}


@pytest.fixture
def w() -> Iterator[Wire]:
    with wire() as it:
        yield it
        assert_idle(it.target)


def solicited(w: Wire, blocks: int = 8, **keys: str) -> tuple[WireInitiator, Pdu, list[Pdu]]:
    """A write that waits for the data of its R2Ts."""
    session = w.login({**SOLICITED, **keys})
    command = session.scsi(cdb.write10(0, blocks), edtl=blocks * 512, write=True)
    r2ts = session.exchange(command)
    assert {pdu.opcode for pdu in r2ts} == {Opcode.R2T}
    return session, command, r2ts


def unsolicited(
    w: Wire, blocks: int = 8, data: bytes = b"", lba: int = 0
) -> tuple[WireInitiator, Pdu]:
    """A write whose unsolicited data is still to come."""
    session = w.login(UNSOLICITED)
    command = session.scsi(
        cdb.write10(lba, blocks), edtl=blocks * 512, write=True, final=False, data=data
    )
    assert not session.exchange(command)
    return session, command


def medium(w: Wire, nbytes: int) -> bytes:
    view = memoryview(bytearray(nbytes))
    assert w.volumes[0].read_now(0, [view], nbytes)
    return bytes(view)


def test_a_burst_in_order_is_written(w: Wire) -> None:
    session, command, (r2t,) = solicited(w)
    first = session.data_out(command, b"a" * 1024, ttt=r2t.ttt, final=False)
    last = session.data_out(command, b"b" * 3072, ttt=r2t.ttt, offset=1024, sn=1)
    assert session.one(first, last).status == 0
    assert medium(w, 4096) == b"a" * 1024 + b"b" * 3072


@pytest.mark.parametrize(
    ("offset", "sn", "sense"),
    [
        pytest.param(2048, 1, OFFSET, id="gap"),
        pytest.param(512, 1, OFFSET, id="overlap"),
        pytest.param(0, 1, OFFSET, id="again"),
        pytest.param(1024, 0, CRC, id="DataSN again"),
        pytest.param(1024, 2, CRC, id="DataSN missing"),
        pytest.param(1024, 0xFFFFFFFF, CRC, id="DataSN from before"),
    ],
)
def test_a_sequence_out_of_step_ends_the_command(
    w: Wire, offset: int, sn: int, sense: tuple[int, int, int]
) -> None:
    session, command, (r2t,) = solicited(w)
    first = session.data_out(command, b"a" * 1024, ttt=r2t.ttt, final=False)
    wrong = session.data_out(command, b"b" * 1024, ttt=r2t.ttt, offset=offset, sn=sn, final=False)
    assert not session.exchange(first, wrong)
    # RFC 7143 7.8: status only once the sequence is over.
    last = session.data_out(command, b"c" * 2048, ttt=r2t.ttt, offset=2048, sn=2)
    assert sense_triple(session.one(last)) == sense
    assert medium(w, 4096) == bytes(4096)


def test_a_burst_longer_than_its_r2t_ends_the_command(w: Wire) -> None:
    session, command, (r2t,) = solicited(w)
    answer = session.one(session.data_out(command, bytes(4100), ttt=r2t.ttt))
    assert sense_triple(answer) == INCORRECT_AMOUNT


def test_a_burst_shorter_than_its_r2t_ends_the_command(w: Wire) -> None:
    session, command, (r2t,) = solicited(w)
    answer = session.one(session.data_out(command, bytes(2048), ttt=r2t.ttt, final=True))
    assert sense_triple(answer) == INCORRECT_AMOUNT


def test_the_last_byte_ends_a_burst_without_an_f_bit_too(w: Wire) -> None:
    session, command, (r2t,) = solicited(w)
    answer = session.one(session.data_out(command, b"x" * 4096, ttt=r2t.ttt, final=False))
    assert answer.status == 0
    assert medium(w, 4096) == b"x" * 4096


def test_an_empty_data_out_counts_and_moves_nothing(w: Wire) -> None:
    session, command, (r2t,) = solicited(w)
    empty = session.data_out(command, b"", ttt=r2t.ttt, final=False)
    last = session.data_out(command, b"x" * 4096, ttt=r2t.ttt, sn=1)
    assert session.one(empty, last).status == 0


def test_an_unknown_transfer_tag_is_rejected_and_the_command_goes_on(w: Wire) -> None:
    session, command, (r2t,) = solicited(w)
    stray = session.data_out(command, bytes(512), ttt=r2t.ttt + 1)
    assert rejected(session.one(stray), stray) == 0x09
    assert session.one(session.data_out(command, bytes(4096), ttt=r2t.ttt)).status == 0


def test_a_transfer_tag_is_good_for_one_sequence(w: Wire) -> None:
    session, command, (first,) = solicited(w, blocks=16)
    (second,) = session.exchange(session.data_out(command, bytes(4096), ttt=first.ttt))
    late = session.data_out(command, bytes(4096), ttt=first.ttt)
    assert rejected(session.one(late), late) == 0x09
    answer = session.one(session.data_out(command, bytes(4096), ttt=second.ttt, offset=4096))
    assert answer.status == 0


def test_data_for_a_tag_that_nobody_has_is_dropped(w: Wire) -> None:
    session, command, (r2t,) = solicited(w)
    stray = session.data_out(command, bytes(30000), ttt=r2t.ttt)
    stray.itt = 0x12345678
    assert not session.exchange(stray)
    assert session.one(session.data_out(command, bytes(4096), ttt=r2t.ttt)).status == 0


def test_unsolicited_data_where_an_r2t_was_promised_ends_the_command(w: Wire) -> None:
    session, command, (r2t,) = solicited(w)
    assert not session.exchange(session.data_out(command, bytes(512)))
    answer = session.one(session.data_out(command, bytes(4096), ttt=r2t.ttt))
    assert sense_triple(answer) == UNEXPECTED


@pytest.mark.parametrize("immediate", [0, 512, 4096])
def test_unsolicited_data_is_taken_with_and_without_immediate_data(w: Wire, immediate: int) -> None:
    data = bytes(range(256)) * 16
    session, command = unsolicited(w, data=data[:immediate])
    # With all data in the command there is still an F bit owed.
    rest = session.data_out(command, data[immediate:], offset=immediate)
    assert session.one(rest).status == 0
    assert medium(w, 4096) == data


def test_too_much_unsolicited_data_ends_the_command(w: Wire) -> None:
    session, command = unsolicited(w, blocks=16)
    answer = session.one(session.data_out(command, bytes(4608)))
    assert sense_triple(answer) == UNEXPECTED


def test_too_little_unsolicited_data_ends_the_command(w: Wire) -> None:
    session, command = unsolicited(w, blocks=16)
    answer = session.one(session.data_out(command, bytes(2048)))
    assert sense_triple(answer) == INCORRECT_AMOUNT


def test_immediate_data_beyond_the_first_burst_ends_the_command(w: Wire) -> None:
    session = w.login(UNSOLICITED)
    command = session.scsi(cdb.write10(0, 16), edtl=8192, write=True, data=bytes(4608))
    assert sense_triple(session.one(command)) == UNEXPECTED


def test_immediate_data_that_was_negotiated_away_ends_the_command(w: Wire) -> None:
    session = w.login(SOLICITED)
    command = session.scsi(cdb.write10(0, 1), edtl=512, write=True, data=bytes(512))
    assert sense_triple(session.one(command)) == UNEXPECTED


def test_data_behind_a_command_that_writes_nothing_ends_it(w: Wire) -> None:
    session = w.login()
    command = session.scsi(cdb.read10(0, 1), edtl=512, read=True, data=bytes(512))
    assert sense_triple(session.one(command)) == UNEXPECTED


def test_unsolicited_data_out_that_was_negotiated_away_ends_the_command_at_its_f_bit(
    w: Wire,
) -> None:
    session = w.login(SOLICITED)
    command = session.scsi(cdb.write10(0, 16), edtl=8192, write=True, final=False)
    assert not session.exchange(command)
    assert not session.exchange(session.data_out(command, bytes(512), final=False))
    last = session.data_out(command, bytes(512), offset=512, sn=1)
    assert sense_triple(session.one(last)) == UNEXPECTED


def test_an_error_waits_for_the_end_of_the_unsolicited_data(w: Wire) -> None:
    """RFC 7143 11.4.2: a device error is reported after the last expected Data-Out."""
    session, command = unsolicited(w, lba=1 << 30)
    assert not session.exchange(session.data_out(command, bytes(1024), final=False))
    assert len(w.target.sessions[session.tsih].tasks) == 1
    assert w.pool.used == 0
    last = session.data_out(command, bytes(3072), offset=1024, sn=1)
    assert sense_triple(session.one(last)) == OUT_OF_RANGE


def test_an_error_waits_for_the_end_of_every_outstanding_r2t(w: Wire) -> None:
    session, command, r2ts = solicited(w, blocks=24, MaxOutstandingR2T="3")
    assert len(r2ts) == 3
    assert not session.exchange(session.data_out(command, bytes(512), ttt=r2ts[0].ttt, sn=9))
    assert w.pool.used == 0
    for r2t in r2ts[2:0:-1]:
        out = session.data_out(command, bytes(4096), ttt=r2t.ttt, offset=r2t.buffer_offset)
        answers = session.exchange(out)
    assert sense_triple(answers[0]) == CRC


def test_a_parked_command_keeps_its_place_in_the_window_until_it_is_answered(w: Wire) -> None:
    session, command = unsolicited(w, lba=1 << 30)
    nexus = w.target.sessions[session.tsih]
    assert nexus.window is not None
    assert nexus.window.outstanding(nexus.exp_cmd_sn) == 1
    session.exchange(session.data_out(command, bytes(4096)))
    assert nexus.window.outstanding(nexus.exp_cmd_sn) == 0


def test_data_that_streams_into_a_command_which_ends_meanwhile_goes_nowhere() -> None:
    """A large Data-Out lands in pool segments as it comes; they must not be written later."""
    with wire() as w:
        session = w.login({"InitialR2T": "Yes", "ImmediateData": "No"})
        command = session.scsi(cdb.write10(0, 512), edtl=1 << 18, write=True)
        (r2t,) = session.exchange(command)
        out = session.data_out(command, b"\xff" * (1 << 18), ttt=r2t.ttt).encode()
        session.socket.feed(out[:100_000])
        other = w.login()
        (done,) = other.exchange(other.tmf(5))
        assert (done.opcode, done.response) == (Opcode.TASK_MANAGEMENT_RESPONSE, 0)
        assert w.pool.used == 0
        for segment in w.pool.free:
            segment[:] = bytes(len(segment))
        session.socket.feed(out[100_000:])
        assert not any(any(segment) for segment in w.pool.free)
        assert session.one(session.ping(b"still in step")).data == b"still in step"


def test_an_f_bit_that_streams_while_its_command_fails_is_not_forgotten() -> None:
    with wire(stores=[store := HeldStore(MemoryStore(1 << 20))]) as w:
        session = w.login({"InitialR2T": "No", "FirstBurstLength": "65536"})
        # 4 KiB of the data is needed, and is written while the surplus is on its way.
        command = session.scsi(cdb.write10(0, 8), edtl=65536, write=True, final=False)
        first = session.data_out(command, bytes(4096), final=False)
        session.exchange(command, first)
        rest = session.data_out(command, bytes(61440), offset=4096, sn=1).encode()
        session.socket.feed(rest[:20_000])
        store.release_all()
        assert not session.incoming()
        session.socket.feed(rest[20_000:])
        (answer,) = session.incoming()
        assert (answer.opcode, answer.status) == (Opcode.SCSI_RESPONSE, 0)
        assert (answer.flags & 0x06, answer.residual) == (0x02, 61440)
        assert_idle(w.target)


def test_unsolicited_data_of_a_read_is_refused(w: Wire) -> None:
    session = w.login()
    read = session.scsi(cdb.read10(0, 2048), edtl=1 << 20, read=True)
    session.socket.taking = 0
    session.exchange(read, session.data_out(read, bytes(512)))
    session.socket.taking = None
    assert session.incoming()[-1].opcode in (Opcode.DATA_IN, Opcode.SCSI_RESPONSE)


def test_r2t_tags_are_never_the_reserved_one(w: Wire) -> None:
    session, command, (r2t,) = solicited(w)
    w.target.sessions[session.tsih]._ttt = 0xFFFFFFFD
    session.one(session.data_out(command, bytes(4096), ttt=r2t.ttt))
    tags = []
    for _ in range(3):
        write = session.scsi(cdb.write10(0, 8), edtl=4096, write=True)
        (r2t,) = session.exchange(write)
        tags.append(r2t.ttt)
        session.one(session.data_out(write, bytes(4096), ttt=r2t.ttt))
    assert tags == [0xFFFFFFFE, 0, 1]
    assert NO_TAG not in tags
