"""The portal on real sockets: sockets that do not take what we send, and those that just end."""

from __future__ import annotations

import random
import socket
import struct

import pytest

from target.block.pool import SEGMENT_BYTES
from target.iscsi.portal import COPIED_BYTES_MAX
from target.iscsi.receiver import SCRATCH_BYTES
from target.iscsi.session import Session
from tests.support import cdb
from tests.support import iscsi_pdu as raw
from tests.support.clean import assert_clean, assert_idle
from tests.support.initiator import Initiator
from tests.support.iscsi_pdu import Opcode
from tests.support.iscsi_socket import Disconnected
from tests.support.served import Served, served
from tests.support.stores import HeldStore
from tests.support.wire import wire
from workers.memory_store import MemoryStore

SIZE = 16 << 20


def mine(s: Served, initiator: Initiator) -> Session:
    return s.w.target.sessions[initiator.tsih]


def widen(session: Initiator, commands: int) -> None:
    """Use the command window until it takes so many commands."""
    while session.max_cmd_sn - session.cmd_sn + 1 < commands:
        tasks = [
            session.start(cdb.TEST_UNIT_READY)
            for _ in range(session.max_cmd_sn - session.cmd_sn + 1)
        ]
        session.wait(*tasks)


def reset(session: Initiator) -> None:
    """End the connection as a crash does."""
    session.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    session.socket.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("digests", ["None", "CRC32C"])
def test_data_goes_both_ways(host: str, digests: str) -> None:
    with wire(SIZE) as w, served(w, host) as s, s.initiator() as session:
        session.login({"HeaderDigest": digests, "DataDigest": digests})
        session.command(cdb.TEST_UNIT_READY)
        data = random.Random(1).randbytes(4 << 20)
        assert session.command(cdb.write16(0, 8192), data_out=data).status == 0
        tasks = [session.start(cdb.read16(n * 512, 512), read_length=262144) for n in range(16)]
        session.wait(*tasks)
        assert b"".join(task.data_in for task in tasks) == data
        s.ask(lambda: assert_idle(w.target))
        assert session.logout() == 0
        with pytest.raises(Disconnected):
            session.read_pdu()


def test_data_that_nobody_takes_stops_the_reading_not_the_target() -> None:
    with wire(SIZE) as w, served(w) as s, s.initiator() as slow, s.initiator() as quick:
        for session in (slow, quick):
            session.login()
            session.command(cdb.TEST_UNIT_READY)
        # Or the kernel may take all of it: a receive buffer grows, here to 32 MiB, as it sees fit.
        slow.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        widen(slow, 40)
        tasks = [slow.start(cdb.read16(n % 30 * 1024, 1024), read_length=524288) for n in range(40)]
        (channel,) = (c for c in s.portal.channels if c.channel.session is mine(s, slow))
        s.until(lambda: channel._writing)
        # The other one is not held up, and what waits is bounded.
        data = b"q" * 65536
        assert quick.command(cdb.write10(0, 128), data_out=data).status == 0
        assert quick.command(cdb.read10(0, 128), read_length=65536).data_in == data
        limit = mine(s, slow).share.limit
        assert s.ask(lambda: mine(s, slow).share.held) <= limit
        assert s.ask(lambda: channel.channel.sender.backlog) < (limit + 1) * SEGMENT_BYTES
        slow.wait(*tasks)
        assert all(task.status == 0 and task.received == 524288 for task in tasks)
        s.until(lambda: w.pool.used == 0)
        s.ask(lambda: assert_idle(w.target))


def test_pings_that_nobody_takes_stop_the_reading() -> None:
    """What comes back of them is not in the pool, so it has a bound of its own."""
    with wire() as w, served(w) as s, s.initiator() as session:
        session.login()
        ping = raw.nop_out(itt=7, cmd_sn=1, exp_stat_sn=1, immediate=True, data=bytes(200_000))
        for _ in range(200):
            session.socket.queue_pdu(ping)
        channel = s.ask(lambda: next(iter(s.portal.channels)))
        # Write, and read nothing, until the target reads no more.
        sock = session.socket.socket
        out = memoryview(b"".join(bytes(part) for part in session.socket._to_send))
        session.socket._to_send.clear()
        sent = 0
        while s.ask(lambda: channel._reading):
            try:
                sent += sock.send(out[sent : sent + 65536])
            except BlockingIOError:
                continue
        assert s.ask(lambda: channel.channel.sender.backlog) < COPIED_BYTES_MAX + 3 * SCRATCH_BYTES
        session.socket.queue(out[sent:])
        session.socket.flush()
        for _ in range(200):
            assert session.socket.read_pdu().opcode == Opcode.NOP_IN


def test_what_has_not_arrived_is_known() -> None:
    with wire(SIZE) as w, served(w) as s, s.initiator() as session:
        session.login()
        widen(session, 16)
        channel = s.ask(lambda: next(iter(s.portal.channels)))
        assert s.ask(channel._undelivered) == 0
        tasks = [session.start(cdb.read16(0, 2048), read_length=1 << 20) for _ in range(16)]
        session.socket.flush()
        s.until(lambda: channel.channel.sender.backlog > 0 and channel._undelivered() > 0)
        session.wait(*tasks)
        s.until(lambda: channel._undelivered() == 0)


@pytest.mark.parametrize("seed", range(8))
def test_a_connection_may_be_reset_at_any_time(seed: int) -> None:
    rng = random.Random(seed)
    with wire(SIZE) as w, served(w) as s:
        for _ in range(6):
            session = s.initiator()
            session.login({"InitialR2T": rng.choice(("Yes", "No"))})
            session.command(cdb.TEST_UNIT_READY)
            for _ in range(rng.randint(1, 30)):
                lba, blocks = rng.randrange(16384), rng.randint(1, 2048)
                if rng.random() < 0.5:
                    session.start(
                        cdb.read16(lba, blocks), read_length=blocks * 512, ignore_window=True
                    )
                else:
                    session.start(
                        cdb.write16(lba, blocks),
                        data_out=bytes(blocks * 512),
                        ignore_window=True,
                    )
            for _ in range(rng.randint(0, 5)):
                if session.tasks and not any(task.r2ts for task in session.tasks.values()):
                    session.process(session.read_pdu())
            reset(session) if rng.random() < 0.7 else session.close()
        s.until(lambda: not s.portal.channels)
        s.ask(lambda: assert_clean(w.target))


def test_a_reset_behind_half_a_pdu_is_noticed() -> None:
    """No send fails, for there is nothing to answer; and uvloop calls only once."""
    with wire(SIZE) as w, served(w) as s:
        for _ in range(10):
            session = s.initiator()
            session.login()
            pdu = raw.scsi_command(
                itt=9,
                lun=0,
                cdb=cdb.write10(0, 128),
                cmd_sn=session.cmd_sn,
                exp_stat_sn=1,
                edtl=65536,
                write=True,
                data=bytes(65536),
            )
            session.socket.send_bytes(pdu.encode()[:-1])
            reset(session)
        s.until(lambda: not s.portal.channels)
        s.ask(lambda: assert_clean(w.target))


def test_a_connection_that_ends_while_a_store_works_leaves_nothing() -> None:
    store = HeldStore(MemoryStore(SIZE))
    with wire(stores=[store]) as w, served(w) as s:
        session = s.initiator()
        session.login()
        session.command(cdb.TEST_UNIT_READY)
        session.start(cdb.read16(0, 4096), read_length=4096 * 512)
        session.start(cdb.write16(0, 128), data_out=bytes(65536))
        s.until(lambda: len(store.held) == 1)
        reset(session)
        s.until(lambda: not s.portal.channels)
        assert s.ask(lambda: w.target.busy)
        s.ask(store.release_all)
        s.ask(lambda: assert_clean(w.target))


def test_connections_past_the_bound_are_closed_at_once() -> None:
    with wire() as w, served(w, connections_max=2) as s:
        with s.initiator() as one, s.initiator() as two:
            for session in (one, two):
                session.login()
            with s.initiator() as three, pytest.raises(Disconnected):
                three.login()
            assert one.nop(b"1") == b"1"
        s.until(lambda: not s.portal.channels)
        with s.initiator() as four:
            four.login()


def test_logins_and_discovery_sessions_keep_nobody_out() -> None:
    with wire() as w, served(w, connections_max=3) as s, s.initiator() as session:
        session.login()
        with s.initiator() as idle, s.initiator() as discovery:
            discovery.login(discovery=True)
            with s.initiator() as other, s.initiator() as another:
                for newcomer in (other, another):
                    newcomer.login()
                    assert newcomer.nop(b"in") == b"in"
                for outsider in (idle, discovery):
                    with pytest.raises(Disconnected):
                        outsider.read_pdu()
                assert session.nop(b"here") == b"here"


def test_the_last_words_arrive_before_the_connection_ends() -> None:
    with wire(SIZE) as w, served(w) as s, s.initiator() as session:
        session.login()
        session.command(cdb.TEST_UNIT_READY)
        tasks = [session.start(cdb.read16(0, 4096), read_length=2 << 20) for _ in range(3)]
        session.wait(*tasks)
        assert session.logout() == 0
        with pytest.raises(Disconnected):
            session.read_pdu()
        s.until(lambda: not w.target.sessions)


def test_garbage_ends_a_connection_and_nothing_else() -> None:
    with wire() as w, served(w) as s, s.initiator() as good:
        good.login()
        for n in range(20):
            with s.initiator() as bad:
                bad.socket.send_bytes(random.Random(n).randbytes(10_000))
                bad.socket.read_to_end()
        assert good.nop(b"fine") == b"fine"
