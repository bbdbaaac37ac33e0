"""What is in flight at RADOS, and how the event loop hears of what has ended.

Rules:

1. Nobody calls back.  A thread waits for the oldest operation and wakes the loop, which then looks
   at all of them: the busier the client, the more ends with one wake-up.
2. An operation that hangs hides no others.  The thread cannot wait for those as well, so the loop
   also looks by itself: every ``TICK_SECONDS`` while it finds something that way, more and more
   seldom while it does not.
3. librados throttles a caller that has too much in flight by blocking it.  At most ``OPS_MAX`` and
   ``BYTES_MAX`` are, well below its bounds (workers/rados_pool.py); the others wait here, in order.
4. A completion is given back to librados on the loop, when it is complete, and when the thread does
   not wait for it any more.  What belongs to it (the memory that is read into) lives as long.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from workers.rados_pool import RadosPool

OPS_MAX: Final = 4096
BYTES_MAX: Final = 64 << 20  # of data that is written or read, and one operation
TICK_SECONDS: Final = 0.002
TICK_SECONDS_MAX: Final = 0.064

log = logging.getLogger(__name__)
# ``call(ioctx, name, completion, *arguments)`` of librados; a negative error number.
Call = Callable[..., int]
Ended = Callable[[int], None]  # with what the operation returned
# (ended, bytes of data, what librados fills, which lives as long): this runs for every I/O.
_Operation = tuple[Ended, int, Any]


class RadosCompletions:
    """The completions of one client; ``on_shut_out``: an operation ended with -ESHUTDOWN."""

    def __init__(
        self, pool: RadosPool, loop: asyncio.AbstractEventLoop, on_shut_out: Callable[[], None]
    ) -> None:
        quick = pool.librados.quick
        self._ioctx = pool.ioctx
        self._on_shut_out = on_shut_out
        self._create = quick.rados_aio_create_completion2
        self._is_complete = quick.rados_aio_is_complete
        self._result = quick.rados_aio_get_return_value
        self._release = quick.rados_aio_release
        self._cancel = quick.rados_aio_cancel
        self._wait = pool.librados.slow.rados_aio_wait_for_complete
        self._loop = loop
        self._slot = ctypes.c_void_p()
        self._slot_reference = ctypes.byref(self._slot)
        self._running: dict[int, _Operation] = {}  # by completion, the oldest first
        self._waiting: deque[tuple[Call, bytes, tuple[Any, ...], _Operation]] = deque()
        self._nbytes = 0  # of those that run
        self._watched = 0  # the completion that the thread waits for
        self._to_watch: queue.SimpleQueue[int] = queue.SimpleQueue()  # 0: no more
        self._thread: threading.Thread | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tick_seconds = TICK_SECONDS
        self._swept = False  # since the last tick

    def __len__(self) -> int:
        return len(self._running) + len(self._waiting)

    def start(
        self,
        call: Call,
        name: bytes,
        arguments: tuple[Any, ...],
        ended: Ended,
        nbytes: int = 0,
        kept: object = None,
    ) -> None:
        """``ended`` is called once, on the loop, after this has returned."""
        operation = (ended, nbytes, kept)
        if self._waiting or len(self._running) >= OPS_MAX or self._nbytes >= BYTES_MAX:
            self._waiting.append((call, name, arguments, operation))
        else:
            self._submit(call, name, arguments, operation)

    def _submit(
        self, call: Call, name: bytes, arguments: tuple[Any, ...], operation: _Operation
    ) -> None:
        self._create(None, None, self._slot_reference)
        completion = self._slot.value
        assert completion, "librados has it, or the process has no memory"
        result = call(self._ioctx, name, completion, *arguments)
        if result < 0:
            self._release(completion)
            self._loop.call_soon(operation[0], result)
            return
        self._running[completion] = operation
        self._nbytes += operation[1]
        if not self._watched:
            self._watch(completion)
        if self._timer is None:
            self._timer = self._loop.call_later(self._tick_seconds, self._tick)

    # --- the thread (rule 1) ----------------------------------------------------------------------

    def _watch(self, completion: int) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._watching, name="lunmesh-rados", daemon=True
            )
            self._thread.start()
        self._watched = completion
        self._to_watch.put(completion)

    def _watching(self) -> None:
        while completion := self._to_watch.get():
            self._wait(completion)
            try:
                self._loop.call_soon_threadsafe(self._woken)
            except RuntimeError:  # the loop is closed
                return

    def _woken(self) -> None:
        self._watched = 0
        self._swept = True
        self._sweep()
        if self._running and not self._watched:
            self._watch(next(iter(self._running)))

    # --- on the loop ------------------------------------------------------------------------------

    def _sweep(self) -> bool:
        """End what is complete; whether there was something."""
        is_complete, watched = self._is_complete, self._watched
        found = [c for c in self._running if c != watched and is_complete(c)]
        for completion in found:
            ended, nbytes, _ = self._running.pop(completion)
            self._nbytes -= nbytes
            result = self._result(completion)
            self._release(completion)
            try:
                if result == -errno.ESHUTDOWN:
                    self._on_shut_out()
                ended(result)
            except Exception:  # a bug with one completion must not lose the others
                log.exception("internal error at the end of an operation")
        while self._waiting and len(self._running) < OPS_MAX and self._nbytes < BYTES_MAX:
            self._submit(*self._waiting.popleft())
        return bool(found)

    def _tick(self) -> None:
        """Rule 2."""
        self._timer = None
        swept, self._swept = self._swept, False
        if swept or self._sweep():
            self._tick_seconds = TICK_SECONDS
        else:
            self._tick_seconds = min(2 * self._tick_seconds, TICK_SECONDS_MAX)
        if self._running and self._timer is None:
            self._timer = self._loop.call_later(self._tick_seconds, self._tick)

    # --- the end ----------------------------------------------------------------------------------

    def abandon(self) -> list[Ended]:
        """Give up what is in flight; whom to tell.  Memory stays until librados is done."""
        told = [ended for ended, _, _ in self._running.values()]
        told += [operation[0] for *_, operation in self._waiting]
        self._waiting.clear()
        for completion, (_, nbytes, kept) in list(self._running.items()):
            self._running[completion] = (_nobody, nbytes, kept)
            self._cancel(self._ioctx, completion)
        return told

    def close(self) -> None:
        """No more will be started."""
        self._to_watch.put(0)


def _nobody(result: int) -> None:
    """The end of an operation that was given up."""
