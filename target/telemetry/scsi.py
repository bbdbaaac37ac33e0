"""Metrics of logical units: their commands, failures, reservations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from prometheus_client.core import Metric

from target.scsi.bus import SCSIBus
from target.scsi.logical_unit import LogicalUnit
from target.scsi.reservations.parameters import Action
from target.scsi.sense import SenseKey, Status
from target.scsi.stats import BOUNDS_SECONDS, BUCKETS, BYTES, NANOSECONDS, NO_SENSE_KEY, class_name
from target.telemetry.families import counter, cumulative, gauge, histogram

UNITS_PER_PART: Final = 4  # few objects at a time: a run of the cyclic collector would cost more
Units = Sequence[tuple[str, LogicalUnit]]
"""With their labels."""
NO_LUN: Final = "none"  # the label of commands to LUNs where nothing is


def scsi_families(bus: SCSIBus, now: float) -> Iterator[Metric]:
    """Each in parts of ``UNITS_PER_PART``.  ``now``: of the clock that commands are timed with."""
    present = [(str(address), unit) for address, unit in sorted(bus.units.items())]
    for make in (_seconds, _bytes, _failures, _aborted, _reserve_outs):
        yield from _in_parts(make, [*present, (NO_LUN, bus.absent)])
    for make in (_tasks, lambda units: _oldest(units, now), _registrations, _reserved):
        yield from _in_parts(make, present)


def _in_parts(make: Callable[[Units], Metric], units: Units) -> Iterator[Metric]:
    for begin in range(0, max(1, len(units)), UNITS_PER_PART):
        yield make(units[begin : begin + UNITS_PER_PART])


def _rows(units: Units) -> Iterator[tuple[tuple[str, str], list[int]]]:
    """Those of classes that there were commands of, with their labels."""
    for lun, unit in units:
        for index, row in enumerate(unit.stats.rows):
            if any(row[:BUCKETS]):
                yield (lun, class_name(index)), row


def _seconds(units: Units) -> Metric:
    family = histogram(
        "scsi_command_seconds",
        "From the arrival of a command to its answer being given to the socket",
        ("lun", "class"),
    )
    for labels, row in _rows(units):
        family.add_metric(labels, cumulative(BOUNDS_SECONDS, row), row[NANOSECONDS] / 1e9)
    return family


def _bytes(units: Units) -> Metric:
    family = counter("scsi_bytes", "Bytes moved by commands that ended in GOOD", ("lun", "class"))
    for labels, row in _rows(units):
        family.add_metric(labels, row[BYTES])
    return family


def _failures(units: Units) -> Metric:
    family = counter(
        "scsi_failures",
        "Commands that ended in another status than GOOD, by status and sense key",
        ("lun", "status", "sense_key"),
    )
    for lun, unit in units:
        for (status, key), count in unit.stats.failures.items():
            sense = "" if key == NO_SENSE_KEY else SenseKey(key).name.lower()
            family.add_metric((lun, Status(status).name.lower(), sense), count)
    return family


def _aborted(units: Units) -> Metric:
    family = counter("scsi_aborted", "Commands that ended without status", ("lun",))
    for lun, unit in units:
        if unit.stats.aborted:
            family.add_metric((lun,), unit.stats.aborted)
    return family


def _reserve_outs(units: Units) -> Metric:
    family = counter(
        "scsi_persistent_reserve_outs",
        "PERSISTENT RESERVE OUT commands that began, by service action",
        ("lun", "action"),
    )
    for lun, unit in units:
        for action, count in unit.stats.reserve_outs.items():
            family.add_metric((lun, Action(action).name.lower()), count)
    return family


def _tasks(units: Units) -> Metric:
    family = gauge("scsi_tasks", "Commands that have not ended", ("lun", "state"))
    for lun, unit in units:
        family.add_metric((lun, "running"), len(unit.active))
        family.add_metric((lun, "blocked"), len(unit.blocked))
    return family


def _oldest(units: Units, now: float) -> Metric:
    family = gauge("scsi_oldest_task_seconds", "Age of the oldest of them, 0 without", ("lun",))
    for lun, unit in units:
        family.add_metric((lun,), now - min((r.started_at for r in unit.tasks_of()), default=now))
    return family


def _registrations(units: Units) -> Metric:
    family = gauge("scsi_registrations", "I_T nexuses with a registered key", ("lun",))
    for lun, unit in units:
        family.add_metric((lun,), len(unit.reservations.state.registrations))
    return family


def _reserved(units: Units) -> Metric:
    family = gauge("scsi_reserved", "1 while a reservation of either kind is held", ("lun",))
    for lun, unit in units:
        family.add_metric((lun,), unit.reservations.any)
    return family
