"""Traces of single commands for OpenTelemetry: from the PDU that brought one to its answer.

A span is a command; its children are what it waited for: buffers, its data (R2T), the store, the
socket.  A command whose data was at hand waits for nothing, and has none.

Rules:

1. Of the commands that wait, and of those that do not, a part (``ratio``) is looked at, chosen
   before anything is known of them.
2. Nothing waits for the collector: spans go through the SDK's bounded queue and a thread of its
   own, and what finds no room is dropped.
3. At most ``WAITS_MAX`` waits of a command are kept; a long one has many of the same.
4. A command that ends without status (it was aborted) has no span.
"""

from __future__ import annotations

import random
import time
import types
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

import target
from target.block.wait import Wait
from target.scsi import sense
from target.scsi.request import Direction, SCSIRequest

WAITS_MAX: Final = 64

Waited = tuple[str, float, float]
"""What for, from when, until when."""
NOT_CHOSEN: Final[tuple[Waited, ...]] = ()


class RequestTracer:
    """``clock`` is the one that commands are timed with; ``processor`` takes finished spans."""

    def __init__(
        self,
        processor: SpanProcessor,
        *,
        node: str,
        ratio: float,
        clock: Callable[[], float],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._ratio = ratio
        self._clock = clock
        self._chance = chance
        self._offset_ns = time.time_ns() - int(clock() * 1e9)
        resource = Resource(
            {
                "service.name": "lunmesh",
                "service.instance.id": node,
                "service.version": target.__version__,
            }
        )
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("lunmesh", target.__version__)

    def close(self) -> None:
        """Send what there is; takes as long as the processor allows."""
        self._provider.shutdown()

    # --- of Watcher -----------------------------------------------------------------------------

    def runs(
        self, req: SCSIRequest, coroutine: Coroutine[Wait[Any], Any, None]
    ) -> Coroutine[Wait[Any], Any, None]:
        """See :class:`target.scsi.watcher.Watcher`."""
        if self._chance() >= self._ratio:
            req.watched = NOT_CHOSEN
            return coroutine
        waits: list[Waited] = []
        req.watched = waits
        return self._run(coroutine, waits)

    def ended(self, requests: Sequence[SCSIRequest], now: float) -> None:
        """See :class:`target.scsi.watcher.Watcher`."""
        for req in requests:
            waits: Sequence[Waited] | None = req.watched
            if waits is None:  # it has waited for nothing
                if self._chance() < self._ratio:
                    self._tell(req, (), now)
            elif waits is not NOT_CHOSEN:
                self._tell(req, waits, now)

    async def _run(self, coroutine: Coroutine[Wait[Any], Any, None], waits: list[Waited]) -> None:
        await _timed(coroutine, waits, self._clock)

    def _tell(self, req: SCSIRequest, waits: Sequence[Waited], now: float) -> None:
        attributes: dict[str, str | int] = {
            "lunmesh.lun": req.attachment.number,
            "lunmesh.initiator": req.attachment.nexus.initiator,
            "lunmesh.tag": req.tag,
            "lunmesh.lba": req.lba,
            "lunmesh.blocks": req.blocks,
            "lunmesh.direction": Direction(req.direction).name.lower(),
            "lunmesh.bytes": req.transfer,
            "lunmesh.status": sense.Status(req.status).name,
        }
        if req.sense is not None:
            attributes["lunmesh.sense"] = req.sense.key.name
        span = self._tracer.start_span(
            req.command.name,
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=self._ns(req.started_at),
        )
        if req.status:
            span.set_status(Status(StatusCode.ERROR))
        within = set_span_in_context(span)
        for what, began, ended in waits:
            child = self._tracer.start_span(what, context=within, start_time=self._ns(began))
            child.end(self._ns(ended))
        span.end(self._ns(now))

    def _ns(self, seconds: float) -> int:
        return int(seconds * 1e9) + self._offset_ns


@types.coroutine
def _timed(
    coroutine: Coroutine[Wait[Any], Any, None], waits: list[Waited], clock: Callable[[], float]
) -> Generator[Wait[Any], Any, None]:
    """Run ``coroutine``, and note what it waits for."""
    try:
        wait = coroutine.send(None)
        while True:
            began = clock()
            try:
                outcome = yield wait
            except BaseException as exc:
                _note(waits, wait, began, clock())
                wait = coroutine.throw(exc)
            else:
                _note(waits, wait, began, clock())
                wait = coroutine.send(outcome)
    except StopIteration:
        return


def _note(waits: list[Waited], wait: Wait[Any], began: float, ended: float) -> None:
    if len(waits) < WAITS_MAX:
        waits.append((wait.what, began, ended))
