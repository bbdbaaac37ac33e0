"""Metrics of logical units: their commands, failures, reservations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client.core import Metric

from target.scsi.bus import SCSIBus
from target.scsi.logical_unit import LogicalUnit
from target.scsi.sense import SenseKey, Status
from target.scsi.stats import BOUNDS_SECONDS, BUCKETS, BYTES, NANOSECONDS, NO_SENSE_KEY, OpClass
from target.telemetry.families import counter, gauge, histogram

NO_LUN: Final = "none"  # the label of commands to LUNs where nothing is
_EDGES: Final = (*(f"{bound:g}" for bound in BOUNDS_SECONDS), "+Inf")


def class_name(index: int) -> str:
    """As the label has it."""
    return OpClass(index).name.lower()


def scsi_families(bus: SCSIBus, now: float) -> Iterator[Metric]:
    """``now``: of the clock that commands are timed with."""
    units = [(str(number), unit) for number, unit in sorted(bus.units.items())]
    yield from _counted([*units, (NO_LUN, bus.absent)])
    yield from _present(units, now)


def _counted(units: Sequence[tuple[str, LogicalUnit]]) -> Iterator[Metric]:
    seconds = histogram(
        "scsi_command_seconds",
        "From the arrival of a command to its answer being given to the socket",
        ("lun", "class"),
    )
    nbytes = counter("scsi_bytes", "Bytes moved by commands that ended in GOOD", ("lun", "class"))
    failures = counter(
        "scsi_failures",
        "Commands that ended in another status than GOOD, by status and sense key",
        ("lun", "status", "sense_key"),
    )
    aborted = counter("scsi_aborted", "Commands that ended without status", ("lun",))
    for lun, unit in units:
        stats = unit.stats
        for index, row in enumerate(stats.rows):
            if any(row[:BUCKETS]):
                labels = (lun, class_name(index))
                seconds.add_metric(labels, _cumulative(row), row[NANOSECONDS] / 1e9)
                nbytes.add_metric(labels, row[BYTES])
        for (status, key), count in list(stats.failures.items()):
            sense = "" if key == NO_SENSE_KEY else SenseKey(key).name.lower()
            failures.add_metric((lun, Status(status).name.lower(), sense), count)
        if stats.aborted:
            aborted.add_metric((lun,), stats.aborted)
    yield from (seconds, nbytes, failures, aborted)


def _cumulative(row: list[int]) -> list[tuple[str, float]]:
    total = 0
    buckets: list[tuple[str, float]] = []
    for edge, count in zip(_EDGES, row, strict=False):
        total += count
        buckets.append((edge, total))
    return buckets


def _present(units: Sequence[tuple[str, LogicalUnit]], now: float) -> Iterator[Metric]:
    tasks = gauge("scsi_tasks", "Commands that have not ended", ("lun", "state"))
    oldest = gauge("scsi_oldest_task_seconds", "Age of the oldest of them, 0 without", ("lun",))
    keys = gauge("scsi_registrations", "I_T nexuses with a registered key", ("lun",))
    reserved = gauge("scsi_reserved", "1 while a reservation of either kind is held", ("lun",))
    for lun, unit in units:
        tasks.add_metric((lun, "running"), len(unit.active))
        tasks.add_metric((lun, "blocked"), len(unit.blocked))
        began = min((req.started_at for req in unit.tasks_of()), default=now)
        oldest.add_metric((lun,), now - began)
        keys.add_metric((lun,), len(unit.reservations.state.registrations))
        reserved.add_metric((lun,), unit.reservations.any)
    yield from (tasks, oldest, keys, reserved)
