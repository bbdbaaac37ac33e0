"""Traces of commands: what is a span, what is in it, and which commands have one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from target.telemetry.tracing import WAITS_MAX, RequestTracer
from tests.support import cdb
from tests.support.abort_states import release
from tests.support.iscsi_pdu import TaskFunction
from tests.support.stores import HeldStore
from tests.support.wire import Wire, wire
from workers.memory_store import MemoryStore

SIZE = 64 << 20
MS = 1_000_000  # nanoseconds


@contextlib.contextmanager
def traced(w: Wire, chance: float = 0.0, ratio: float = 0.5) -> Iterator[InMemorySpanExporter]:
    """All commands are chosen, or none with a ``chance`` above the ratio."""
    exporter = InMemorySpanExporter()
    tracer = RequestTracer(
        SimpleSpanProcessor(exporter), node="a", ratio=ratio, clock=w.clock, chance=lambda: chance
    )
    w.bus.watcher = tracer
    yield exporter
    tracer.close()


def milliseconds(span: ReadableSpan) -> int:
    assert span.start_time is not None
    assert span.end_time is not None
    return round((span.end_time - span.start_time) / MS)


def family(exporter: InMemorySpanExporter) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """The only command, and what it waited for."""
    *children, command = exporter.get_finished_spans()
    assert command.parent is None
    assert command.context is not None
    for child in children:
        assert child.parent is not None
        assert child.parent.span_id == command.context.span_id
    return command, children


def test_a_command_that_waits_for_its_store() -> None:
    with wire(stores=[HeldStore(MemoryStore(SIZE))]) as w:
        session = w.login(name="iqn.x:one")
        with traced(w) as exporter:
            session.exchange(session.scsi(cdb.read10(8, 1), read=True, edtl=512))
            w.clock.now += 0.003
            release(w)
            w.clock.now += 0.001
            w.settle()
            command, children = family(exporter)
            assert command.name == "READ(10)"
            assert command.attributes is not None
            assert command.attributes["lunmesh.lba"] == 8
            assert command.attributes["lunmesh.bytes"] == 512
            assert command.attributes["lunmesh.initiator"] == "iqn.x:one"
            assert command.attributes["lunmesh.status"] == "GOOD"
            assert command.resource.attributes["service.instance.id"] == "a"
            assert milliseconds(command) == 4
            assert [(c.name, milliseconds(c)) for c in children] == [("store read", 3)]


def test_a_write_that_asks_for_its_data() -> None:
    with wire(SIZE) as w:
        session = w.login({"InitialR2T": "Yes", "ImmediateData": "No"})
        with traced(w) as exporter:
            session.command(cdb.write10(0, 8), data_out=bytes(4096))
            command, children = family(exporter)
            assert command.name == "WRITE(10)"
            assert [child.name for child in children] == ["solicited data"]


def test_a_command_that_waits_for_nothing_and_one_that_fails() -> None:
    with wire(SIZE) as w:
        session = w.login()
        with traced(w) as exporter:
            session.command(cdb.read10(0, 1), read_length=512)
            command, children = family(exporter)
            assert children == []
            assert command.status.status_code is StatusCode.UNSET
            exporter.clear()
            session.command(cdb.read10(1 << 30, 1), read_length=512)
            command, _ = family(exporter)
            assert command.status.status_code is StatusCode.ERROR
            assert command.attributes is not None
            assert command.attributes["lunmesh.sense"] == "ILLEGAL_REQUEST"


@pytest.mark.parametrize("held", [False, True])
def test_those_that_are_not_chosen_have_none(held: bool) -> None:
    store = MemoryStore(SIZE)
    with wire(stores=[HeldStore(store) if held else store]) as w:
        session = w.login()
        with traced(w, chance=0.6) as exporter:
            session.exchange(session.scsi(cdb.read10(8, 1), read=True, edtl=512))
            if held:
                release(w)
                w.settle()
            assert exporter.get_finished_spans() == ()


def test_one_that_is_aborted_has_none() -> None:
    with wire(stores=[HeldStore(MemoryStore(SIZE))]) as w:
        session = w.login()
        with traced(w) as exporter:
            task = session.scsi(cdb.read10(8, 1), read=True, edtl=512)
            session.exchange(task)
            session.exchange(session.tmf(TaskFunction.ABORT_TASK, task))
            release(w)
            w.settle()
            assert exporter.get_finished_spans() == ()


def test_a_long_command_is_bounded() -> None:
    with wire(SIZE) as w:
        session = w.login()
        with traced(w) as exporter:
            length = 32 << 20
            task = session.command(cdb.read16(0, length >> 9), read_length=length)
            assert task.status == 0
            _, children = family(exporter)
            assert 30 < len(children) <= WAITS_MAX
