"""Group commit: the flushes of one store that arrive together share one.

A flush makes durable what was answered before it *began*.  So one that arrives while another runs
waits for that to end and then runs for everybody who has come in the meantime: any number of
clients cost two flushes at a time, not one each.
"""

from __future__ import annotations

import logging

from workers.store import IoKind, StoreIo, StoreStatus, VolumeStore

log = logging.getLogger(__name__)


class FlushGroup:
    """The flushes of ``store``."""

    def __init__(self, store: VolumeStore) -> None:
        self._store = store
        self._waiting: list[StoreIo] = []
        self._running: list[StoreIo] = []
        self._flush: StoreIo | None = None  # what runs for those

    def submit(self, io: StoreIo) -> None:
        """``io.done`` is called when a flush that began after this call has ended."""
        self._waiting.append(io)
        if not self._running:
            self._begin()

    def _begin(self) -> None:
        self._running, self._waiting = self._waiting, []
        flush = self._flush = StoreIo(IoKind.FLUSH, 0, self._store.size, self._ended)
        try:
            self._store.submit(flush)
        except Exception as bug:
            log.exception("internal error at the beginning of a flush")
            if self._flush is flush:
                flush.status, flush.detail = StoreStatus.WRITE_FAILED, repr(bug)
                self._ended(flush)

    def _ended(self, flush: StoreIo) -> None:
        self._flush = None
        ended, self._running = self._running, []
        if self._waiting:
            self._begin()
        for io in ended:
            io.status, io.detail = flush.status, flush.detail
            io.done(io)
