"""One client of a Ceph cluster and one pool of it, over Ceph's own Python module.

Rules:

1. An operation never blocks its caller.  It ends once, on the event loop, with 0 or more, or with a
   negative error number, as in librados.
2. What waits for Ceph waits.  There is no timeout for an operation on an object: one that was given
   up here might still land.  What only asks the monitors is bounded in time.
3. A client that the cluster has shut out stays so.  The first operation that says it calls
   ``evicted``, once.  After ``abandon`` every operation ends, and every new one, with -ESHUTDOWN:
   what is late comes to nobody, and nothing goes to the cluster any more.
4. librados throttles a caller that has too much in flight by blocking it.  Its bounds are raised
   beyond what a worker can have in flight by its own (workers/rados_module.py).

A full cluster or pool answers with -ENOSPC or -EDQUOT (``set_osdmap_full_try``); librados would
otherwise hold writes back until there is space.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from workers.delivery import Delivery
from workers.executor import BlockingExecutor
from workers.rados_module import MON_SECONDS, RadosError, open_pool

CALL_SECONDS: Final = 2 * MON_SECONDS  # for a call that asks them, whatever librados does
BLOCKING_THREADS: Final = 4
MANY_OPS: Final = 4
TICK_SECONDS: Final = 0.001
FULL_FORCE: Final = 128  # LIBRADOS_OPERATION_FULL_FORCE, which the module does not name
CLOSE_SECONDS: Final = 5.0
# A worker that was stopped for longer than this may find itself let in again, with writes that it
# had not sent.  The monitors' own default is an hour; a paused virtual machine sleeps for longer.
EVICTED_SECONDS: Final = 30 * 86400
Done = Callable[[int, bytes], None]  # result, data that was read
T = TypeVar("T")


class RadosClient:
    """Connected, with ``pool`` open.  Make one with :meth:`connect`."""

    def __init__(self, cluster: Any, ioctx: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.evicted: Callable[[], None] = lambda: None  # rule 3
        self.instance: str = cluster.get_addrs()  # as `ceph osd blocklist add` takes it
        self.store_id = f"{cluster.get_fsid()}/{ioctx.get_pool_id()}"
        self._cluster = cluster
        self._ioctx = ioctx
        self._loop = loop
        self._delivery = Delivery(loop.call_soon_threadsafe, self._enough)
        self._tick: asyncio.TimerHandle | None = None
        self._blocking = BlockingExecutor(BLOCKING_THREADS, loop.call_soon_threadsafe)
        self._pending: dict[int, Done] = {}
        self._number = 0
        self._shut_out = False
        self._abandoned = False

    @classmethod
    async def connect(cls, pool: str, conf: Path, user: str = "") -> RadosClient:
        """Raises RadosError; bounded in time."""
        loop = asyncio.get_running_loop()
        executor = BlockingExecutor(1, loop.call_soon_threadsafe)
        opened = functools.partial(open_pool, pool, conf, user)
        try:
            cluster, ioctx = await _in_thread(executor, loop, opened, CALL_SECONDS)
        except TimeoutError:
            raise RadosError(f"{conf}: the cluster does not answer") from None
        executor.close()
        return cls(cluster, ioctx, loop)

    @property
    def pending(self) -> int:
        """Operations in flight."""
        return len(self._pending)

    # --- operations on objects --------------------------------------------------------------------

    def read(self, name: str, length: int, offset: int, done: Done) -> None:
        """``done`` with the bytes that there are: fewer at the end of the object."""
        self._start(done, lambda ended: self._ioctx.aio_read(name, length, offset, ended))

    def write(self, name: str, data: bytes, offset: int, done: Done) -> None:
        """The object is made if it is not there."""
        self._start(done, lambda ended: self._ioctx.aio_write(name, data, offset, ended))

    def write_zeros(self, name: str, offset: int, length: int, done: Done) -> None:
        """Real zeros: the space is taken."""
        unit = bytes(length if length % 512 else 512)
        self._start(
            done, lambda ended: self._ioctx.aio_writesame(name, unit, length, offset, ended)
        )

    def compare_and_write(
        self, name: str, compare: bytes, data: bytes, offset: int, done: Done
    ) -> None:
        """Atomic.  -4095 - n: the first difference is at byte n.  What is not there is zero."""
        self._operate(name, done, ("cmpext", compare, offset), ("write", data, offset))

    def replace(self, name: str, old: bytes | None, new: bytes, done: Done) -> None:
        """The whole object, if it is ``old`` (None: not there) that is there.

        -EEXIST or -4095 - n: it is something else.  For records, which are small: it is done on a
        full pool too, or nothing could be deleted there.
        """
        guard = ("new", 1) if old is None else ("cmpext", old, 0)
        self._operate(name, done, guard, ("write_full", new), flags=FULL_FORCE)

    def truncate(self, name: str, size: int, done: Done) -> None:
        """Cut an object off, if it is there.

        (``WriteOp.zero`` is not used: its two arguments are exchanged on the way to librados.)
        """
        self._operate(name, done, ("truncate", size))

    def remove(self, name: str, done: Done) -> None:
        """-ENOENT: there was none."""
        self._start(done, lambda ended: self._ioctx.aio_remove(name, ended))

    def stat(self, name: str, done: Done) -> None:
        """``done`` with the size, or -ENOENT."""

        def start(ended: Callable[..., None]) -> Any:
            def known(completion: Any, size: int | None, _: object) -> None:
                ended(completion, b"", size)

            return self._ioctx.aio_stat(name, known)

        self._start(done, start)

    def _operate(self, name: str, done: Done, *steps: tuple[Any, ...], flags: int = 0) -> None:
        def start(ended: Callable[..., None]) -> Any:
            operation = self._ioctx.create_write_op()
            try:
                for method, *arguments in steps:
                    getattr(operation, method)(*arguments)
                return self._ioctx.operate_aio_write_op(operation, name, ended, flags=flags)
            finally:
                self._ioctx.release_write_op(operation)

        self._start(done, start)

    def _start(self, done: Done, start: Callable[[Callable[..., None]], Any]) -> None:
        """Rule 1."""
        self._number += 1
        number = self._number
        self._pending[number] = done
        if self._tick is None and len(self._pending) >= MANY_OPS:
            self._tick = self._loop.call_later(TICK_SECONDS, self._collect)

        def ended(completion: Any, data: bytes | None = None, size: int | None = None) -> None:
            """In a thread of librados."""
            result = completion.get_return_value() if size is None else size
            # Where there was nothing to read the binding hands out a buffer that nobody filled.
            found = data if data and result else b""
            self._delivery.put(lambda: self._ended(number, result, found))

        if self._abandoned:
            self._delivery.put(lambda: self._ended(number, -errno.ESHUTDOWN, b""))
            return
        try:
            start(ended)
        except Exception as exc:  # librados has not taken it
            failed = -abs(getattr(exc, "errno", None) or errno.EIO)
            self._delivery.put(lambda: self._ended(number, failed, b""))

    def _enough(self, waiting: int) -> bool:
        """Rule 5."""
        return self._tick is None or 2 * waiting >= len(self._pending)

    def _collect(self) -> None:
        self._tick = None
        if len(self._pending) >= MANY_OPS:
            self._tick = self._loop.call_later(TICK_SECONDS, self._collect)
        self._delivery.deliver()

    def _ended(self, number: int, result: int, data: bytes) -> None:
        done = self._pending.pop(number, None)
        if done is None:
            return  # abandoned
        if result == -errno.ESHUTDOWN and not self._shut_out:
            self._shut_out = True
            self.evicted()
        done(result, data)

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
        await self._call(self._cluster.wait_for_latest_osdmap)

    async def evict(self, instance: str) -> None:
        """Shut out a client; returns with the map in hand that says so.  Raises OSError."""
        await self._call(lambda: self._cluster.blocklist_add(instance, EVICTED_SECONDS))
        await self.latest_map()

    def names(self) -> Iterator[str]:
        """Of all objects of the pool; in a thread only (:meth:`call`)."""
        return (found.key for found in self._ioctx.list_objects())

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
        self._abandoned = self._shut_out = True
        while self._pending:
            number = next(iter(self._pending))
            self._pending.pop(number)(-errno.ESHUTDOWN, b"")

    def close(self, wait_seconds: float = CLOSE_SECONDS) -> None:
        """Leave the cluster.  A thread does it: librados may wait for one that is not there."""
        self.abandon()
        leaving = threading.Thread(target=self._leave, name="lunmesh-rados-close", daemon=True)
        leaving.start()
        leaving.join(wait_seconds)

    def _leave(self) -> None:
        self._blocking.close()
        self._ioctx.close()
        self._cluster.shutdown()


async def _in_thread(
    executor: BlockingExecutor,
    loop: asyncio.AbstractEventLoop,
    work: Callable[[], T],
    seconds: float | None,
) -> T:
    """``work()`` in a thread; raises what it raises, Ceph's errors as OSError, and TimeoutError."""
    future: asyncio.Future[T] = loop.create_future()
    outcome: list[T | BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as exc:
            code = getattr(exc, "errno", None)
            if isinstance(code, int) and not isinstance(exc, OSError):
                exc = OSError(abs(code), os.strerror(abs(code)))
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
