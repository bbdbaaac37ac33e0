"""The portal on an event loop and sockets that the test plays."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from typing import cast

import pytest

from target.block.pool import SEGMENT_BYTES
from target.iscsi.connection import PARAMETER_BYTES_MAX
from target.iscsi.pdu import NopIn
from target.iscsi.portal import (
    BACKLOG_BYTES_MAX,
    PASS_BYTES_MIN,
    PASS_SECONDS_MAX,
    Portal,
    SocketChannel,
)
from target.scsi.sense import Status
from tests.support import cdb
from tests.support import iscsi_pdu as raw
from tests.support.clean import assert_clean, assert_idle
from tests.support.fake_loop import FakeLoop, FakeSocket
from tests.support.initiator import DEFAULT_NAME
from tests.support.iscsi_pdu import Opcode, Pdu
from tests.support.stores import HeldStore
from tests.support.wire import TARGET, Wire, wire
from workers.memory_store import MemoryStore

SIZE = 32 << 20
KEYS = {
    "InitiatorName": DEFAULT_NAME,
    "TargetName": TARGET,
    "SessionType": "Normal",
    "MaxRecvDataSegmentLength": "262144",
    "MaxBurstLength": "1048576",
}


class Rig:
    """A portal with one connection, logged in."""

    def __init__(self, w: Wire, portal: Portal, loop: FakeLoop) -> None:
        self.w, self.portal, self.loop = w, portal, loop
        self.sock = FakeSocket(7)
        self.channel = SocketChannel(portal, cast("socket.socket", self.sock), "192.0.2.9")
        portal.channels[self.channel] = None
        login = raw.login_request(
            itt=1,
            cmd_sn=1,
            exp_stat_sn=0,
            csg=1,
            nsg=3,
            transit=True,
            isid=b"\x80\1\2\3\4\5",
            data=raw.encode_keys(KEYS),
        )
        self.cmd_sn = 1
        self.arrive(login)
        self.arrive(self.command(cdb.TEST_UNIT_READY))  # takes the unit attention
        self.sock.taken.clear()

    def arrive(self, *pdus: Pdu) -> None:
        self.sock.arriving += b"".join(pdu.encode() for pdu in pdus)
        while self.sock.arriving and self.sock.fd in self.loop.readers:
            self.loop.readers[self.sock.fd]()

    def command(self, command: bytes, *, read: int = 0, write: int = 0, data: bytes = b"") -> Pdu:
        self.cmd_sn += 1
        return raw.scsi_command(
            itt=self.cmd_sn,
            lun=0,
            cdb=command,
            cmd_sn=self.cmd_sn - 1,
            exp_stat_sn=1,
            edtl=read or write,
            read=bool(read),
            write=bool(write),
            data=data,
        )

    def ping(self, data: bytes = b"") -> Pdu:
        return raw.nop_out(itt=5, cmd_sn=self.cmd_sn, exp_stat_sn=1, immediate=True, data=data)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    loop = FakeLoop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    with wire(SIZE) as w:
        portal = Portal(w.target, "192.0.2.1", 3260, w.clock, 4)
        yield Rig(w, portal, loop)
        portal.close()
        loop.run_soon()
        assert_clean(w.target)


def test_one_wake_up_is_one_receive_and_one_send(rig: Rig) -> None:
    rig.sock.sends = 0
    rig.arrive(*(rig.command(cdb.read10(n, 8), read=4096) for n in range(4)))
    assert rig.sock.sends == 1
    assert len(rig.sock.taken) == 4 * (48 + 4096)


def another(rig: Rig) -> FakeSocket:
    """A second connection, whose login has begun."""
    sock = FakeSocket(8)
    channel = SocketChannel(rig.portal, cast("socket.socket", sock), "192.0.2.10")
    rig.portal.channels[channel] = None
    sock.arriving += b"\x43"
    return sock


@pytest.mark.parametrize("between", [False, True], ids=["alone", "another reads between"])
@pytest.mark.parametrize("streamed", [False, True], ids=["kept", "streamed"])
def test_half_a_pdu_waits_for_its_rest(rig: Rig, streamed: bool, between: bool) -> None:
    data = bytes(range(250)) * 263
    size = 65536 if streamed else 999
    rig.arrive(rig.command(cdb.write10(0, 128), write=65536))
    ttt = int.from_bytes(rig.sock.taken[20:24])
    last = raw.data_out(
        itt=rig.cmd_sn,
        lun=0,
        ttt=ttt,
        exp_stat_sn=1,
        data_sn=0,
        offset=0,
        data=data[:65536],
        final=True,
    )
    pdu = (last if streamed else rig.ping(data[:size])).encode()
    rig.sock.taken.clear()
    rig.sock.arriving += pdu[: size // 2]
    rig.loop.readers[7]()
    if between:
        another(rig)
        rig.loop.readers[8]()
        rig.portal.scratch[:] = bytes(len(rig.portal.scratch))
    assert not rig.sock.taken
    rig.sock.arriving += pdu[size // 2 :]
    rig.loop.readers[7]()
    assert rig.sock.taken[0] == (Opcode.SCSI_RESPONSE if streamed else Opcode.NOP_IN)
    if streamed:
        rig.sock.taken.clear()
        rig.arrive(rig.command(cdb.read10(0, 128), read=65536))
    else:
        rig.arrive(last)  # nothing is outstanding at the end
    assert rig.sock.taken[48 : 48 + size] == data[:size]


def test_who_keeps_the_others_waiting_is_read_in_smaller_pieces(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = rig.channel.channel
    received = channel.received
    pieces: list[int] = []
    seconds_of_a_byte = 1e-6

    def slow(scratch: memoryview, nbytes: int) -> None:
        pieces.append(nbytes)
        rig.w.clock.now += nbytes * seconds_of_a_byte
        received(scratch, nbytes)

    monkeypatch.setattr(channel, "received", slow)
    rig.arrive(*[rig.ping()] * 5000)
    assert pieces[0] == 240_000
    pieces.clear()
    rig.arrive(*[rig.ping()] * 5000)
    assert max(pieces) * seconds_of_a_byte <= PASS_SECONDS_MAX
    seconds_of_a_byte = 1e-3
    rig.arrive(*[rig.ping()] * 5000)
    pieces.clear()
    rig.arrive(*[rig.ping()] * 5000)
    assert pieces[0] == PASS_BYTES_MIN
    seconds_of_a_byte = 0
    pieces.clear()
    rig.arrive(*[rig.ping()] * 10000)
    assert pieces[:4] == [PASS_BYTES_MIN << n for n in range(4)]


def test_half_a_pdu_of_a_connection_that_is_gone_is_nobodys(rig: Rig) -> None:
    sock = another(rig)
    rig.loop.readers[8]()
    sock.receive_error = OSError(errno.ECONNRESET, "gone")
    rig.loop.readers[8]()
    assert sock.closed
    rig.arrive(rig.ping(b"x"))
    assert rig.sock.taken[48:] == b"x\0\0\0"


def test_large_reads_of_a_wake_up_leave_by_the_megabyte(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbytes = 256 << 10
    used: list[int] = []
    send = rig.sock.sendmsg

    def sendmsg(parts: list[bytes | memoryview]) -> int:
        used.append(rig.w.pool.used * SEGMENT_BYTES)
        return send(parts)

    monkeypatch.setattr(rig.sock, "sendmsg", sendmsg)
    rig.arrive(*(rig.command(cdb.read10(512 * n, 512), read=nbytes) for n in range(7)))
    assert used == [4 * nbytes, 3 * nbytes]
    assert len(rig.sock.taken) == 7 * (48 + nbytes)
    assert_idle(rig.w.target)


@pytest.mark.parametrize("room", [0, 1, 47, 48, 49, 5000])
def test_what_the_socket_does_not_take_goes_when_it_does(rig: Rig, room: int) -> None:
    rig.sock.room = room
    rig.arrive(*(rig.command(cdb.read10(n, 8), read=4096) for n in range(3)))
    assert len(rig.sock.taken) == room
    assert rig.w.pool.used > 0
    rig.sock.room = 3
    rig.loop.writers[7]()
    assert len(rig.sock.taken) == room + 3
    rig.sock.room = None
    rig.loop.writers[7]()
    assert len(rig.sock.taken) == 3 * (48 + 4096)
    assert not rig.loop.writers
    assert_idle(rig.w.target)


def test_with_too_much_to_send_nothing_is_read(rig: Rig) -> None:
    rig.sock.room = 0
    sender = rig.channel.channel.sender
    while sender.backlog <= BACKLOG_BYTES_MAX:
        assert 7 in rig.loop.readers
        rig.arrive(rig.command(cdb.read16(0, 2048), read=1 << 20))
    assert 7 not in rig.loop.readers
    rig.sock.room = 1 << 20
    rig.loop.writers[7]()
    assert 7 not in rig.loop.readers
    rig.sock.room = None
    rig.loop.writers[7]()
    assert 7 in rig.loop.readers
    rig.arrive(rig.ping())
    assert_idle(rig.w.target)


def test_parameter_data_that_nobody_takes_are_bounded(rig: Rig) -> None:
    """All of it has come in one piece: not to read any more is too late."""
    all_opcodes = bytes.fromhex("a3 0c 80 00 0000 00002000 0000")
    rig.arrive(rig.command(all_opcodes, read=8192))
    nbytes = len(rig.sock.taken)
    rig.sock.taken.clear()
    rig.sock.room = 0
    commands = 2 * PARAMETER_BYTES_MAX // nbytes
    rig.arrive(*(rig.command(all_opcodes, read=8192) for _ in range(commands)))
    assert rig.channel.channel.sender.backlog < PARAMETER_BYTES_MAX * 5 // 4
    assert 7 not in rig.loop.readers
    rig.sock.room = None
    rig.loop.writers[7]()
    last = rig.sock.taken[-48:]
    assert (last[0], last[3]) == (Opcode.SCSI_RESPONSE, Status.BUSY)
    rig.sock.taken.clear()
    rig.arrive(rig.command(all_opcodes, read=8192))
    assert len(rig.sock.taken) == nbytes
    assert_idle(rig.w.target)


@pytest.mark.parametrize("error", [errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT])
@pytest.mark.parametrize("commands", [1, 60])
def test_a_send_that_fails_drops_the_connection_after_the_pass(
    rig: Rig, error: int, commands: int
) -> None:
    """Sixty reads are more than what is sent at the end of a pass only."""
    rig.arrive(*(rig.command(cdb.TEST_UNIT_READY) for _ in range(4)))
    grow = [rig.ping() for _ in range(200)]
    rig.arrive(*grow)
    rig.sock.send_error = OSError(error, "gone")
    rig.arrive(*(rig.command(cdb.read10(0, 128), read=65536) for _ in range(commands)))
    assert rig.sock.closed
    assert not rig.portal.channels
    assert not rig.loop.readers
    assert_clean(rig.w.target)


def test_a_send_that_fails_between_r2ts_leaves_nothing(rig: Rig) -> None:
    rig.sock.room = 0
    rig.arrive(*(rig.command(cdb.write16(0, 4096), write=2 << 20) for _ in range(3)))
    rig.sock.send_error = OSError(errno.ECONNRESET, "gone")
    rig.loop.writers[7]()
    assert rig.sock.closed
    assert_clean(rig.w.target)


@pytest.mark.parametrize("error", [OSError(errno.ECONNRESET, "gone"), None])
def test_the_end_of_the_stream_drops_the_connection(rig: Rig, error: OSError | None) -> None:
    rig.sock.receive_error, rig.sock.at_end = error, True
    rig.loop.readers[7]()
    assert rig.sock.closed
    assert_clean(rig.w.target)


def test_a_tick_finds_what_the_loop_no_longer_tells(rig: Rig) -> None:
    rig.portal._ticked()
    assert not rig.sock.closed
    rig.sock.arriving += rig.ping(b"x").encode()
    rig.portal._ticked()
    assert rig.sock.taken[0] == Opcode.NOP_IN
    rig.sock.receive_error = OSError(errno.ECONNRESET, "gone")
    rig.portal._ticked()
    assert rig.sock.closed


def test_a_bug_of_ours_costs_one_connection(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = rig.channel.channel.endpoint
    assert endpoint is not None

    def broken(*args: object) -> None:
        raise ZeroDivisionError

    endpoint.receiver.handlers[:] = [broken] * 64
    rig.arrive(rig.ping())
    assert rig.sock.closed
    assert "internal error" in caplog.text
    assert_clean(rig.w.target)


def test_a_bug_of_ours_between_passes_costs_one_connection(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(scratch: memoryview) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(rig.channel.channel.receiver, "settle", broken)
    rig.arrive(rig.ping())
    rig.sock.arriving += rig.ping().encode()[:20]
    rig.loop.readers[7]()
    assert rig.channel in rig.portal.channels
    other = another(rig)
    rig.loop.readers[8]()
    assert rig.sock.closed
    assert not other.closed
    assert "internal error" in caplog.text


def test_a_bug_of_ours_while_sending_costs_one_connection(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sender = rig.channel.channel.sender

    def broken(nbytes: int) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sender, "sent", broken)
    monkeypatch.setattr(sender, "abandon", lambda: None)
    rig.portal.schedule(rig.channel)
    sender.put(NopIn(stat_sn=1, exp_cmd_sn=1, max_cmd_sn=1))
    rig.loop.run_soon()
    assert rig.sock.closed
    assert "internal error" in caplog.text


def test_what_a_store_finishes_is_sent_at_the_end_of_the_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = FakeLoop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    store = HeldStore(MemoryStore(SIZE))
    with wire(stores=[store]) as w:
        portal = Portal(w.target, "192.0.2.1", 3260, w.clock, 4)
        rig = Rig(w, portal, loop)
        rig.arrive(*(rig.command(cdb.read10(n, 8), read=4096) for n in range(3)))
        assert not rig.sock.taken
        rig.sock.sends = 0
        store.release_all()
        assert rig.sock.sends == 0
        loop.run_soon()
        assert rig.sock.sends == 1
        portal.close()


class FakeListener:
    """A listening socket: what `accept` does next."""

    def __init__(self) -> None:
        self.next: list[FakeSocket | OSError] = []
        self.asked = 0

    def fileno(self) -> int:
        return 3

    def accept(self) -> tuple[FakeSocket, tuple[str, int]]:
        self.asked += 1
        if not self.next:
            raise BlockingIOError
        found = self.next.pop(0)
        if isinstance(found, OSError):
            raise found
        return found, ("192.0.2.7", 1)

    def listen(self, backlog: int) -> None:
        pass

    def getsockname(self) -> tuple[str, int]:
        return "192.0.2.1", 3260

    def close(self) -> None:
        pass


@pytest.fixture
def listening(rig: Rig) -> tuple[Rig, FakeListener]:
    listener = FakeListener()
    rig.portal.start(cast("socket.socket", listener))
    return rig, listener


def test_connections_are_accepted_as_long_as_there_are_some(
    listening: tuple[Rig, FakeListener],
) -> None:
    rig, listener = listening
    listener.next = [FakeSocket(fd) for fd in (20, 21)]
    rig.loop.readers[3]()
    assert len(rig.portal.channels) == 3


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_without_descriptors_accepting_pauses(
    listening: tuple[Rig, FakeListener], error: int
) -> None:
    """The connection stays in the queue: the loop would call again at once, for ever."""
    rig, listener = listening
    listener.next = [OSError(error, "no more"), FakeSocket(20)]
    rig.loop.readers[3]()
    assert 3 not in rig.loop.readers
    rig.loop.fire()
    rig.loop.readers[3]()
    assert len(rig.portal.channels) == 2


def test_a_connection_that_is_gone_when_it_is_accepted_is_no_harm(
    listening: tuple[Rig, FakeListener],
) -> None:
    rig, listener = listening
    gone = FakeSocket(20)
    gone.setsockopt = _raise_einval  # type: ignore[method-assign]
    listener.next = [OSError(errno.ECONNABORTED, "gone"), gone, FakeSocket(21)]
    rig.loop.readers[3]()
    rig.loop.readers[3]()
    assert gone.closed
    assert len(rig.portal.channels) == 2


def _raise_einval(level: int, option: int, value: int) -> None:
    raise OSError(errno.EINVAL, "Invalid argument")


def test_past_the_bound_the_oldest_that_has_no_disk_makes_room(
    listening: tuple[Rig, FakeListener],
) -> None:
    rig, listener = listening
    socks = [FakeSocket(fd) for fd in range(20, 26)]
    listener.next = list(socks)
    rig.loop.readers[3]()
    assert [sock.closed for sock in socks] == [True] * 3 + [False] * 3
    assert not rig.sock.closed
    assert len(rig.portal.channels) == 4
    assert rig.w.target.counters.connections_refused == 3
