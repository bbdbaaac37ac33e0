"""Threads for I/O that waits: a bounded number of them, and one wake-up for many completions.

A worker has more of them than one client may keep busy (``disk_threads``, workers/scheduler.py rule
2), and others for what makes data durable: however slow a disk is, and however many volumes are
being flushed, there is a thread for everybody else's I/O.

``concurrent.futures`` costs a future, a lock and a wake-up of the event loop per job.  Here a job
is two callables, and the loop is woken once for all that has ended (workers/delivery.py).
"""

from __future__ import annotations

import queue
import threading
from typing import Final

from workers.delivery import CallSoonThreadsafe, Delivery, Job
from workers.uring import Uring

PARTS: Final = 2  # of a worker's threads; one is the most that one client and volume have


class BlockingExecutor:
    """``threads`` workers; ``run(work, done)``: ``work()`` in one of them, then ``done()`` on the
    loop.

    What is queued is bounded by its users: each job belongs to a command that holds a place in a
    session's window.  ``work`` must not raise; errors are part of the I/O that it carries.
    """

    def __init__(
        self,
        threads: int,
        call_soon_threadsafe: CallSoonThreadsafe,
        uring: Uring | None = None,
        syncs: BlockingExecutor | None = None,
    ) -> None:
        self.syncs = syncs if syncs is not None else self  # for flushes
        self.uring = uring  # for those that can do without a thread
        self._jobs: queue.SimpleQueue[tuple[Job, Job] | None] = queue.SimpleQueue()
        self._delivery = Delivery(call_soon_threadsafe)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._threads_max = threads
        self._idle = 0  # threads waiting for a job, as far as is known
        self._closed = False
        self.jobs = 0  # begun so far

    @property
    def threads(self) -> int:
        """That there are."""
        return len(self._threads)

    @property
    def queued(self) -> int:
        """Jobs that no thread has taken yet."""
        return self._jobs.qsize()

    def run(self, work: Job, done: Job) -> None:
        """Queue a job; call from the loop's thread only.

        Raises RuntimeError where there is no thread for it, and the system gives none.
        """
        assert not self._closed, "executor is closed"
        if len(self._threads) < self._threads_max and self._jobs.qsize() >= self._idle:
            try:
                self._spawn()
            except RuntimeError:
                if not self._threads:
                    raise
        self.jobs += 1
        self._jobs.put((work, done))

    def _spawn(self) -> None:
        thread = threading.Thread(
            target=self._serve, name=f"lunmesh-io-{len(self._threads)}", daemon=True
        )
        thread.start()
        self._threads.append(thread)

    def _serve(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            job = self._jobs.get()
            with self._lock:
                self._idle -= 1
            if job is None:
                return
            work, done = job
            work()
            self._delivery.put(done)

    def close(self) -> None:
        """End the threads; nothing may be queued."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        if self.syncs is not self:
            self.syncs.close()
        if self.uring is not None:
            self.uring.close()


def disk_threads(
    io_threads: int, call_soon_threadsafe: CallSoonThreadsafe, uring: Uring | None = None
) -> BlockingExecutor:
    """Those of a worker, of which one client may keep ``io_threads`` busy at one volume."""
    syncs = BlockingExecutor(io_threads, call_soon_threadsafe)
    return BlockingExecutor(PARTS * io_threads, call_soon_threadsafe, uring, syncs)
