"""READ(10) and WRITE(10) of 4 KiB, 32 of them in a wake-up, on a file that is cached.

The real way from a readable socket to its ``sendmsg``, with a socket that is none: what is counted
there does not swing with the machine.
"""

from __future__ import annotations

import os
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, Final, cast
from unittest import mock

from target.iscsi.portal import Portal, SocketChannel
from tests.support import cdb
from tests.support.iscsi_pdu import Pdu
from tests.support.wire import TARGET, Wire
from tests.support.wire_initiator import WireInitiator
from tests.support.wire_socket import PORTAL, WireSocket
from workers.executor import BlockingExecutor
from workers.file_store import FileStore, create_sparse

DEPTH: Final = 32
BLOCKS: Final = 8  # of 512 bytes
SIZE: Final = 1 << 20
TAG_AT: Final = 16
CMD_SN_AT: Final = 24
ROOT: Final = Path(__file__).resolve().parents[2]
OURS: Final = (str(ROOT / "target"), str(ROOT / "workers"))


class _Socket:
    """What has arrived, and what was sent; ``calls`` counts what would be system calls."""

    def __init__(self) -> None:
        self.arrived = bytearray()
        self.sent = bytearray()
        self.keeps = True
        self.on_empty: Callable[[], bool] = lambda: False  # whether something has come meanwhile
        self.calls: Counter[str] = Counter()

    def fileno(self) -> int:
        return -1

    def getsockname(self) -> tuple[str, int]:
        return PORTAL

    def recv_into(self, buffer: memoryview) -> int:
        self.calls["recv"] += 1
        if not self.arrived and not self.on_empty():
            raise BlockingIOError
        size = min(len(buffer), len(self.arrived))
        buffer[:size] = self.arrived[:size]
        del self.arrived[:size]
        return size

    def sendmsg(self, parts: Sequence[memoryview | bytes]) -> int:
        self.calls["sendmsg"] += 1
        if self.keeps:
            for part in parts:
                self.sent += part
        return sum(map(len, parts))


class _Initiators(WireSocket):
    """The other end: a ``WireSocket`` whose bytes go through a ``SocketChannel``."""

    def __init__(self, w: Wire) -> None:
        super().__init__(w.target, w.clock, w.scratch, "192.0.2.9", lambda it: None)
        loop = SimpleNamespace(add_reader=lambda *a: None)
        portal = SimpleNamespace(
            target=w.target,
            scratch=w.scratch,
            clock=w.clock,
            loop=loop,
            schedule=None,
            poll_seconds=0.0,
            latest=None,
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
        self.wake_up: Callable[[], None] = end.socket_channel._readable
        one = b"".join(pdu.segments(header_digest=False, data_digest=False))
        self._bytes = bytearray(one * DEPTH)
        self._each = len(one)
        self.socket.keeps = False

    def arrive(self, commands: int = DEPTH) -> None:
        """The bytes of so many commands have arrived."""
        size = commands * self._each
        for at in range(0, size, self._each):
            struct.pack_into(">I", self._bytes, at + TAG_AT, 1000 + at)
            struct.pack_into(">I", self._bytes, at + CMD_SN_AT, self._session.cmd_sn)
            self._session.cmd_sn += 1
        self.socket.arrived += self._bytes[:size]

    def run(self, times: int) -> None:
        for _ in range(times):
            self.arrive()
            self.wake_up()

    def count(self) -> Counter[str]:
        """Of one wake-up: calls of our functions, bytecodes that they execute, system calls."""
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

        def counted(name: str) -> Any:
            real = getattr(os, name)

            def call(*args: Any) -> Any:
                found[name] += 1
                return real(*args)

            return mock.patch(f"os.{name}", call)

        before = sys.gettrace()
        with counted("preadv"), counted("pwritev"):
            sys.settrace(trace)
            try:
                self.wake_up()
            finally:
                sys.settrace(before)
        return found


@contextmanager
def hot_path(folder: Path, *, write: bool) -> Iterator[HotPath]:
    """One that has warmed up."""
    create_sparse(folder / "raw", SIZE)
    (folder / "raw").write_bytes(bytes(SIZE))
    executor = BlockingExecutor(1, lambda done, *args: done(*args))
    store = FileStore(folder / "raw", executor)
    w = Wire([store])
    end = _Initiators(w)
    session = WireInitiator(
        end, name="iqn.2026-11.io.lunmesh:i", isid=bytes(6), tsih=0, cid=0, target=TARGET
    )
    try:
        session.login()
        session.settle()
        if write:
            pdu = session.scsi(cdb.write10(8, BLOCKS), edtl=4096, write=True, data=bytes(4096))
        else:
            pdu = session.scsi(cdb.read10(8, BLOCKS), edtl=4096, read=True)
        session.cmd_sn -= 1
        path = HotPath(session, end, pdu)
        path.run(8)
        yield path
    finally:
        store.close()
        executor.close()
