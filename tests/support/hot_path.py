"""READ(10) and WRITE(10), 32 of them outstanding, on a file that is cached.

The real way from a readable socket to its ``sendmsg``, with a socket that is none: what is counted
there does not swing with the machine.  A write that is larger than FirstBurstLength sends the rest
when it is asked for (R2T), as initiators do: 64 KiB come with the command, the rest in one
Data-Out.
"""

from __future__ import annotations

import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, Final, cast

from target.iscsi.constants import Opcode
from target.iscsi.portal import Portal, SocketChannel
from tests.support import cdb
from tests.support.iscsi_pdu import Pdu
from tests.support.wire import TARGET, Wire
from tests.support.wire_initiator import WireInitiator
from tests.support.wire_socket import PORTAL, WireSocket
from workers.busy_poll import BusyPoll
from workers.executor import BlockingExecutor
from workers.file_store import FileStore, create_sparse

DEPTH: Final = 32
BLOCK_BYTES: Final = 512
FIRST_BURST_BYTES: Final = 65536  # of what the session has agreed to
POOL_BYTES: Final = 64 << 20
BHS_BYTES: Final = 48
TAG_AT: Final = 16
CMD_SN_AT: Final = 24
LBA_AT: Final = 34  # the CDB's third byte
# C functions of these are system calls, or as good as; those of the socket are counted there.
SYSTEM: Final = frozenset({"posix", "fcntl", "select", "mmap", "_socket"})
ROOT: Final = Path(__file__).resolve().parents[2]
OURS: Final = (str(ROOT / "target"), str(ROOT / "workers"))


class _Socket:
    """What has arrived, and what was sent; ``calls`` counts what would be system calls."""

    def __init__(self) -> None:
        self.arrived = bytearray()
        self.sent = bytearray()
        self.keeps = True
        self.on_empty: Callable[[], bool] = lambda: False  # whether something has come meanwhile
        self.on_sent: Callable[[Sequence[memoryview | bytes]], None] = lambda parts: None
        self.calls: Counter[str] = Counter()

    def fileno(self) -> int:
        return -1

    def getsockname(self) -> tuple[str, int]:
        return PORTAL

    def recv_into(self, buffer: memoryview) -> int:
        self.calls["recv"] += 1
        if not self.arrived and not self.on_empty():
            raise BlockingIOError
        return self._take(buffer)

    def recvmsg_into(self, buffers: Sequence[memoryview]) -> tuple[int]:
        self.calls["recv"] += 1
        if not self.arrived and not self.on_empty():
            raise BlockingIOError
        return (sum(map(self._take, buffers)),)

    def _take(self, buffer: memoryview) -> int:
        size = min(len(buffer), len(self.arrived))
        buffer[:size] = self.arrived[:size]
        del self.arrived[:size]
        return size

    def sendmsg(self, parts: Sequence[memoryview | bytes]) -> int:
        self.calls["sendmsg"] += 1
        if self.keeps:
            for part in parts:
                self.sent += part
        self.on_sent(parts)
        return sum(map(len, parts))


class _Initiators(WireSocket):
    """The other end: a ``WireSocket`` whose bytes go through a ``SocketChannel``."""

    def __init__(self, w: Wire) -> None:
        super().__init__(w.target, w.clock, w.scratch, "192.0.2.9", lambda it: None)
        loop = SimpleNamespace(add_reader=lambda *a: None, call_soon=lambda *a: None)
        portal = SimpleNamespace(
            target=w.target,
            scratch=w.scratch,
            clock=w.clock,
            loop=loop,
            schedule=None,
            poll=BusyPoll(0.0, loop=cast(Any, loop)),
            resting=None,
            group="",
        )
        self.wire = _Socket()
        self.socket_channel = SocketChannel(cast(Portal, portal), cast(Any, self.wire), "192.0.2.9")
        self.channel = self.socket_channel.channel

    def pump(self) -> bool:
        moved = bool(self._to_send)
        while self._to_send:
            self.wire.arrived += self._to_send.popleft()
        while self.wire.arrived:
            self.socket_channel._readable()
        moved = moved or bool(self.wire.sent)
        self._received += self.wire.sent
        self.wire.sent.clear()
        return moved


class HotPath:
    """One session; ``wake_up`` is what happens when the bytes of ``DEPTH`` commands are there."""

    def __init__(self, session: WireInitiator, end: _Initiators, pdu: Pdu) -> None:
        self._session = session
        self.socket = end.wire
        self.channel = end.socket_channel
        self.on_wake_up: Callable[[], object] = end.socket_channel._readable
        one = b"".join(pdu.segments(header_digest=False, data_digest=False))
        self._bytes = bytearray(one * DEPTH)
        self._each = len(one)
        self._blocks = pdu.edtl // BLOCK_BYTES
        rest = session.data_out(pdu, bytes(max(0, pdu.edtl - FIRST_BURST_BYTES)))
        self._rest = bytearray(b"".join(rest.segments(header_digest=False, data_digest=False)))
        self.socket.keeps = False
        if pdu.edtl > FIRST_BURST_BYTES and len(pdu.data):
            self.socket.on_sent = self._answer

    def _answer(self, parts: Sequence[memoryview | bytes]) -> None:
        """Send what every R2T among what was sent asks for: there is no data in it."""
        sent = b"".join(parts)
        for at in range(0, len(sent), BHS_BYTES):
            if sent[at] == Opcode.R2T:
                (length,) = struct.unpack_from(">I", sent, at + 44)
                assert length == len(self._rest) - BHS_BYTES, "all that is left, in one burst"
                self._rest[TAG_AT : TAG_AT + 8] = sent[at + TAG_AT : at + TAG_AT + 8]
                self._rest[40:44] = sent[at + 40 : at + 44]  # Buffer Offset
                self.socket.arrived += self._rest

    def arrive(self, commands: int = DEPTH) -> None:
        """The bytes of so many commands have arrived."""
        size = commands * self._each
        for number, at in enumerate(range(0, size, self._each)):
            struct.pack_into(">I", self._bytes, at + TAG_AT, 1000 + number)
            struct.pack_into(">I", self._bytes, at + CMD_SN_AT, self._session.cmd_sn)
            struct.pack_into(">I", self._bytes, at + LBA_AT, number * self._blocks)
            self._session.cmd_sn += 1
        self.socket.arrived += self._bytes[:size]

    def wake_up(self) -> None:
        """As the event loop does, as long as there are bytes."""
        self.on_wake_up()
        while self.socket.arrived:
            self.on_wake_up()

    @property
    def outstanding(self) -> int:
        """Commands that are not answered."""
        session = self.channel.channel.session
        assert session is not None
        return len(session.tasks)

    def run(self, times: int) -> None:
        for _ in range(times):
            self.arrive()
            self.wake_up()

    def count(self) -> Counter[str]:
        """Of ``DEPTH`` commands: calls of our functions, their bytecodes, system calls by name."""
        found = self.socket.calls = Counter()
        self.arrive()

        def trace(frame: FrameType, event: str, arg: Any) -> Any:
            if not frame.f_code.co_filename.startswith(OURS):
                return None
            found["calls"] += 1
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
            return opcode

        def opcode(frame: FrameType, event: str, arg: Any) -> Any:
            found["bytecodes"] += event == "opcode"
            return opcode

        def profile(frame: FrameType, event: str, arg: Any) -> None:
            if event == "c_call" and arg.__module__ in SYSTEM:
                found[arg.__name__] += 1

        before = sys.gettrace(), sys.getprofile()
        sys.setprofile(profile)
        sys.settrace(trace)
        try:
            self.wake_up()
        finally:
            sys.settrace(before[0])
            sys.setprofile(before[1])
        return found


@contextmanager
def hot_path(folder: Path, *, write: bool, nbytes: int = 4096) -> Iterator[HotPath]:
    """One that has warmed up, with commands of ``nbytes``."""
    size = DEPTH * nbytes
    create_sparse(folder / "raw", size)
    (folder / "raw").write_bytes(bytes(size))
    executor = BlockingExecutor(1, lambda done, *args: done(*args))
    # Time stands still: on a busy machine a write would be slow, and the next ones go to a thread.
    store = FileStore(folder / "raw", executor, clock=lambda: 0.0)
    w = Wire([store], pool_bytes=POOL_BYTES)
    end = _Initiators(w)
    session = WireInitiator(
        end, name="iqn.2026-11.io.lunmesh:i", isid=bytes(6), tsih=0, cid=0, target=TARGET
    )
    try:
        session.login()
        session.settle()
        blocks = nbytes // BLOCK_BYTES
        if write:
            first = bytes(min(nbytes, FIRST_BURST_BYTES))
            pdu = session.scsi(cdb.write10(0, blocks), edtl=nbytes, write=True, data=first)
        else:
            pdu = session.scsi(cdb.read10(0, blocks), edtl=nbytes, read=True)
        session.cmd_sn -= 1
        path = HotPath(session, end, pdu)
        for commands in (1, 2, 4, 8, 16, DEPTH, DEPTH, DEPTH):  # the window opens with its use
            path.arrive(commands)
            path.wake_up()
        yield path
    finally:
        store.close()
        executor.close()
