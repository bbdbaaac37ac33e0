"""Reads that wait for a disk, without a thread for each: Linux's io_uring, called by ctypes.

Rules:

1. It does what goes well.  A read that did not bring all its bytes is done again by a thread, which
   says what is wrong.
2. What is queued in one turn of the event loop goes to the kernel in one system call, and what has
   ended comes back with one wake-up (an eventfd).
3. At most ``ENTRIES`` reads are in flight; whoever comes then is told to take a thread.
4. Where there is none (another kernel, a container whose seccomp profile forbids it, a sysctl),
   threads do all of it.  So it is on machines that do not keep the order of loads as x86 does:
   Python has no barrier between the tail of the ring and the entries before it.

Layouts are those of io_uring_setup(2) and linux/io_uring.h.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import mmap
import os
import platform
import struct
from collections.abc import Callable
from typing import Final

from workers.store import StoreIo

log = logging.getLogger(__name__)

ENTRIES: Final = 256
_SETUP, _ENTER, _REGISTER = 425, 426, 427  # numbers of the system calls on every architecture
_REGISTER_EVENTFD: Final = 4
_OP_READ: Final = 22
_SQES_AT: Final = 0x10000000
_SINGLE_MMAP: Final = 1  # a feature of kernels since 5.4; _OP_READ is there since 5.6
_PARAMS: Final = struct.Struct("<30I")
# Where in it things stand: sizes, features, and the offsets of the two rings.
_CQ_ENTRIES, _FEATURES = 1, 5
_SQ_TAIL, _SQ_MASK, _SQ_ARRAY = 11, 12, 16
_CQ_HEAD, _CQ_TAIL, _CQ_MASK, _CQES = 20, 21, 22, 25
_SQE: Final = struct.Struct("<BBHiQQIIQ24x")
_CQE: Final = struct.Struct("<QiI")
_U32: Final = 0xFFFFFFFF
_ORDERED: Final = ("x86_64", "AMD64")

Fallback = Callable[[StoreIo], None]


class UringUnavailable(Exception):
    """There is no io_uring here (rule 4)."""


class Uring:
    """A ring and its place in an event loop.  Raises UringUnavailable."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        if platform.machine() not in _ORDERED:
            raise UringUnavailable("not on this machine")
        self._loop = loop
        libc = ctypes.CDLL(None, use_errno=True)
        self._syscall = libc.syscall
        params = ctypes.create_string_buffer(_PARAMS.size)
        self._fd = self._called(_SETUP, ENTRIES, params)
        self._event = -1
        self._maps: list[mmap.mmap] = []
        self._views: list[memoryview] = []
        try:
            self._map(_PARAMS.unpack(params.raw))
            self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            event = ctypes.byref(ctypes.c_int(self._event))
            self._called(_REGISTER, self._fd, _REGISTER_EVENTFD, event, 1)
        except (UringUnavailable, OSError, ValueError) as exc:
            self._close()
            raise UringUnavailable(str(exc)) from exc
        self._flying: list[tuple[StoreIo, Fallback] | None] = [None] * ENTRIES
        self._free = list(range(ENTRIES))
        self._tail = 0  # of what is queued; the kernel learns of it in _enter
        self._queued: list[int] = []  # not yet the kernel's
        self.reads = 0  # begun so far
        loop.add_reader(self._event, self._completed)

    def _called(self, number: int, *arguments: object) -> int:
        result: int = self._syscall(number, *arguments)
        if result < 0:
            raise UringUnavailable(os.strerror(ctypes.get_errno()))
        return result

    def _map(self, params: tuple[int, ...]) -> None:
        if not params[_FEATURES] & _SINGLE_MMAP:
            raise UringUnavailable("the kernel is older than 5.4")
        cqes, array = params[_CQES], params[_SQ_ARRAY]
        size = max(cqes + _CQE.size * params[_CQ_ENTRIES], array + 4 * ENTRIES)
        # A map has a descriptor of its own, which has to be closed.
        self._maps = [mmap.mmap(self._fd, size)]
        self._maps.append(mmap.mmap(self._fd, _SQE.size * ENTRIES, offset=_SQES_AT))
        ring, self._sqes = memoryview(self._maps[0]), memoryview(self._maps[1])
        self._cqes = ring[cqes : cqes + _CQE.size * params[_CQ_ENTRIES]]
        words = ring[: size // 4 * 4].cast("I")
        self._sq_tail, self._cq_head, self._cq_tail = (
            words[at // 4 : at // 4 + 1] for at in (params[it] for it in _POINTERS)
        )
        self._sq_mask = words[params[_SQ_MASK] // 4]
        self._cq_mask = words[params[_CQ_MASK] // 4]
        for index in range(ENTRIES):  # each entry is where the ring says it is
            words[array // 4 + index] = index
        self._views = [
            *(ring, words, self._sqes, self._cqes),
            *(self._sq_tail, self._cq_head, self._cq_tail),
        ]

    def read(self, fd: int, io: StoreIo, fallback: Fallback) -> bool:
        """Start a read into one buffer: ``io.done(io)`` or ``fallback(io)`` comes later.

        False: take a thread (rule 3).
        """
        if not self._free or len(io.buffers) != 1:
            return False
        slot = self._free.pop()
        self.reads += 1
        self._flying[slot] = io, fallback
        address = ctypes.addressof(ctypes.c_char.from_buffer(io.buffers[0]))
        _SQE.pack_into(
            self._sqes,
            (self._tail & self._sq_mask) * _SQE.size,
            *(_OP_READ, 0, 0, fd, io.offset, address, io.length, 0, slot),
        )
        self._tail = self._tail + 1 & _U32
        if not self._queued:
            self._loop.call_soon(self._enter)
        self._queued.append(slot)
        return True

    def _enter(self) -> None:
        """Rule 2."""
        queued, self._queued = self._queued, []
        self._sq_tail[0] = self._tail
        taken = max(0, self._syscall(_ENTER, self._fd, len(queued), 0, 0, None, 0))
        if taken < len(queued):  # short of memory, or of places: threads have some
            self._tail = self._sq_tail[0] = self._tail - (len(queued) - taken) & _U32
            for slot in queued[taken:]:
                self._land(slot, -1)

    def _completed(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        head, tail = self._cq_head[0], self._cq_tail[0]
        landed = []
        while head != tail:
            slot, result, _ = _CQE.unpack_from(self._cqes, (head & self._cq_mask) * _CQE.size)
            landed.append((slot, result))
            head = head + 1 & _U32
        self._cq_head[0] = head
        for slot, result in landed:
            self._land(slot, result)

    def _land(self, slot: int, result: int) -> None:
        """Rule 1."""
        flown = self._flying[slot]
        assert flown is not None, "in flight"
        self._flying[slot] = None
        self._free.append(slot)
        io, fallback = flown
        try:
            if result == io.length:
                io.done(io)
            else:
                fallback(io)
        except Exception:  # a bug with one completion must not lose the others
            log.exception("internal error at the end of an I/O")

    def close(self) -> None:
        """Nothing may be in flight."""
        assert len(self._free) == ENTRIES, "closed with reads in flight"
        self._loop.remove_reader(self._event)
        self._close()

    def _close(self) -> None:
        for view in self._views:
            view.release()
        for each in self._maps:
            each.close()
        if self._event >= 0:
            os.close(self._event)
        os.close(self._fd)


_POINTERS: Final = (_SQ_TAIL, _CQ_HEAD, _CQ_TAIL)


def open_uring(loop: asyncio.AbstractEventLoop) -> Uring | None:
    """A ring, where there can be one."""
    try:
        return Uring(loop)
    except UringUnavailable as exc:
        log.info("no io_uring, threads read what is not cached: %s", exc)
        return None
