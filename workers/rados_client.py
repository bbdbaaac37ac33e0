"""One client of a Ceph cluster and one pool of it, over librados.

Rules:

1. An operation never blocks its caller.  It ends once, on the event loop, after the call that
   started it, with 0 or more, or with a negative error number, as in librados.
2. What waits for Ceph waits.  There is no timeout for an operation on an object: one that was given
   up here might still land.  What only asks the monitors is bounded in time.
3. A client that the cluster has shut out stays so.  The first operation that says it calls
   ``evicted``, once.  After ``abandon`` every operation ends, and every new one, with -ESHUTDOWN:
   what is late comes to nobody, and nothing goes to the cluster any more.

A full cluster or pool answers with -ENOSPC or -EDQUOT (``rados_set_osdmap_full_try``); librados
would otherwise hold writes back until there is space.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from workers.executor import BlockingExecutor
from workers.librados import CREATE_EXCLUSIVE, FULL_FORCE, new_bytes
from workers.rados_completions import Call, RadosCompletions
from workers.rados_pool import MON_SECONDS, RadosError, RadosPool

CALL_SECONDS: Final = 2 * MON_SECONDS  # for a call that asks them, whatever librados does
BLOCKING_THREADS: Final = 4
CLOSE_SECONDS: Final = 5.0
# A worker that was stopped for longer than this may find itself let in again, with writes that it
# had not sent.  The monitors' own default is an hour; a paused virtual machine sleeps for longer.
EVICTED_SECONDS: Final = 30 * 86400
# Zeros cost less than a call for bytes that are not filled, as long as they are few.
SMALL_BYTES_MAX: Final = 16384


Done = Callable[[int, bytes], None]  # result, data that was read
T = TypeVar("T")


class RadosClient:
    """Connected, with ``pool`` open.  Make one with :meth:`connect`."""

    def __init__(self, pool: RadosPool, loop: asyncio.AbstractEventLoop) -> None:
        self.evicted: Callable[[], None] = lambda: None  # rule 3
        self.instance = pool.instance
        self.store_id = pool.store_id
        self._pool = pool
        self._quick = pool.librados.quick
        self._loop = loop
        self._blocking = BlockingExecutor(BLOCKING_THREADS, loop.call_soon_threadsafe)
        self._completions = RadosCompletions(pool, loop, self._on_shut_out)
        self._shut_out = False
        self._abandoned = False
        self._closed = False

    @classmethod
    async def connect(cls, pool: str, conf: Path, user: str = "") -> RadosClient:
        """Raises RadosError; bounded in time."""
        loop = asyncio.get_running_loop()
        executor = BlockingExecutor(1, loop.call_soon_threadsafe)
        try:
            opened = await _in_thread(
                executor, loop, lambda: RadosPool(pool, conf, user), CALL_SECONDS
            )
        except TimeoutError:
            raise RadosError(f"{conf}: the cluster does not answer") from None
        except RadosError:  # the other one leaves its thread at work
            executor.close()
            raise
        executor.close()
        return cls(opened, loop)

    @property
    def pending(self) -> int:
        """Operations in flight."""
        return 0 if self._abandoned else len(self._completions)

    # --- operations on objects --------------------------------------------------------------------

    def read(self, name: str, length: int, offset: int, done: Done) -> None:
        """``done`` with the bytes that there are: fewer at the end of the object."""
        data = bytes(length) if length <= SMALL_BYTES_MAX else new_bytes(length)

        def ended(result: int) -> None:
            done(result, data if result == length else data[: max(0, result)])

        call = self._quick.rados_aio_read
        self._start(call, name, (data, length, offset), ended, length, data)

    def write(self, name: str, data: bytes, offset: int, done: Done) -> None:
        """The object is made if it is not there."""
        length = len(data)
        call = self._quick.rados_aio_write
        self._start(call, name, (data, length, offset), _without_data(done), length)

    def write_extents(self, name: str, extents: Sequence[tuple[int, bytes]], done: Done) -> None:
        """(offset, data) each, all or none of them."""
        quick = self._quick

        def steps(op: int) -> None:
            for offset, data in extents:
                quick.rados_write_op_write(op, data, len(data), offset)

        self._operate(name, done, steps, nbytes=sum(len(data) for _, data in extents))

    def write_zeros(self, name: str, offset: int, length: int, done: Done) -> None:
        """Real zeros: the space is taken."""
        unit = bytes(length if length % 512 else 512)
        call = self._quick.rados_aio_writesame
        self._start(call, name, (unit, len(unit), length, offset), _without_data(done))

    def compare_and_write(
        self, name: str, compare: bytes, data: bytes, offset: int, done: Done
    ) -> None:
        """Atomic.  -4095 - n: the first difference is at byte n.  What is not there is zero."""
        quick = self._quick

        def steps(op: int) -> None:
            quick.rados_write_op_cmpext(op, compare, len(compare), offset, None)
            quick.rados_write_op_write(op, data, len(data), offset)

        self._operate(name, done, steps)

    def replace(self, name: str, old: bytes | None, new: bytes, done: Done) -> None:
        """The whole object, if it is ``old`` (None: not there) that is there.

        -EEXIST or -4095 - n: it is something else.  For records, which are small: it is done on a
        full pool too, or nothing could be deleted there.
        """
        quick = self._quick

        def steps(op: int) -> None:
            if old is None:
                quick.rados_write_op_create(op, CREATE_EXCLUSIVE, None)
            else:
                quick.rados_write_op_cmpext(op, old, len(old), 0, None)
            quick.rados_write_op_write_full(op, new, len(new))

        self._operate(name, done, steps, FULL_FORCE)

    def truncate(self, name: str, size: int, done: Done) -> None:
        """Cut an object off, if it is there."""
        self._operate(name, done, lambda op: self._quick.rados_write_op_truncate(op, size))

    def remove(self, name: str, done: Done) -> None:
        """-ENOENT: there was none."""
        self._start(self._quick.rados_aio_remove, name, (), _without_data(done))

    def stat(self, name: str, done: Done) -> None:
        """``done`` with the size, or -ENOENT."""
        size = ctypes.c_uint64()

        def ended(result: int) -> None:
            done(result if result < 0 else size.value, b"")

        self._start(self._quick.rados_aio_stat, name, (size, None), ended, 0, size)

    def _operate(
        self,
        name: str,
        done: Done,
        steps: Callable[[int], None],
        flags: int = 0,
        nbytes: int = 0,
    ) -> None:
        quick = self._quick

        def operate(ioctx: ctypes.c_void_p, key: bytes, completion: int) -> int:
            op = quick.rados_create_write_op()
            try:
                steps(op)
                result: int = quick.rados_aio_write_op_operate(
                    op, ioctx, completion, key, None, flags
                )
                return result
            finally:
                quick.rados_release_write_op(op)

        self._start(operate, name, (), _without_data(done), nbytes)

    def _start(
        self,
        call: Call,
        name: str,
        arguments: tuple[Any, ...],
        ended: Callable[[int], None],
        nbytes: int = 0,
        kept: Any = None,
    ) -> None:
        """Rule 1."""
        if self._abandoned:
            self._loop.call_soon(ended, -errno.ESHUTDOWN)
        else:
            self._completions.start(call, name.encode(), arguments, ended, nbytes, kept)

    def _on_shut_out(self) -> None:
        if not self._shut_out:
            self._shut_out = True
            self.evicted()

    async def wait(self, start: Callable[[Done], None]) -> tuple[int, bytes]:
        """(result, data) of one operation: ``await client.wait(partial(client.read, …))``."""
        future: asyncio.Future[tuple[int, bytes]] = self._loop.create_future()

        def done(result: int, data: bytes) -> None:
            if not future.done():  # the caller has gone
                future.set_result((result, data))

        start(done)
        return await future

    # --- what asks the monitors, or many OSDs -----------------------------------------------------

    async def latest_map(self) -> None:
        """Operations from now on are behind everything that the cluster has decided by now."""
        await self._call(self._pool.latest_map)

    async def evict(self, instance: str) -> None:
        """Shut out a client; returns with the map in hand that says so.  Raises OSError."""
        await self._call(lambda: self._pool.blocklist(instance, EVICTED_SECONDS))
        await self.latest_map()

    def names(self) -> Iterator[str]:
        """Of all objects of the pool; in a thread only (:meth:`call`)."""
        return self._pool.names()

    async def call(self, work: Callable[[], T]) -> T:
        """``work()`` in a thread; raises OSError."""
        return await self._call(work, None)

    async def _call(self, work: Callable[[], T], seconds: float | None = CALL_SECONDS) -> T:
        if self._abandoned:
            raise OSError(errno.ESHUTDOWN, os.strerror(errno.ESHUTDOWN))
        try:
            return await _in_thread(self._blocking, self._loop, work, seconds)
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, "the Ceph cluster does not answer") from None

    # --- its end ----------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Rule 3: end what is in flight, take nothing more."""
        if self._abandoned:
            return
        self._abandoned = self._shut_out = True
        for ended in self._completions.abandon():
            ended(-errno.ESHUTDOWN)

    def close(self, wait_seconds: float = CLOSE_SECONDS) -> None:
        """Leave the cluster.  A thread does it: librados may wait for one that is not there."""
        self.abandon()
        if self._closed:
            return
        self._closed = True
        leaving = threading.Thread(target=self._leave, name="lunmesh-rados-close", daemon=True)
        leaving.start()
        leaving.join(wait_seconds)

    def _leave(self) -> None:
        self._blocking.close()
        self._completions.close()
        self._pool.close()


async def _in_thread(
    executor: BlockingExecutor,
    loop: asyncio.AbstractEventLoop,
    work: Callable[[], T],
    seconds: float | None,
) -> T:
    """``work()`` in a thread; raises what it raises, and TimeoutError."""
    future: asyncio.Future[T] = loop.create_future()
    outcome: list[T | BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as exc:
            outcome.append(exc)

    def done() -> None:
        found = outcome[0]
        if future.done():
            return  # nobody waits any more
        if isinstance(found, BaseException):
            future.set_exception(found)
        else:
            future.set_result(found)

    executor.run(run, done)
    async with asyncio.timeout(seconds):
        return await future


def _without_data(done: Done) -> Callable[[int], None]:
    def ended(result: int) -> None:
        done(result, b"")

    return ended
