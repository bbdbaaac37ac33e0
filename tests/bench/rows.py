"""What is measured, and what the product has to reach against its peer."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.clients import Workload

KIB = 1024


@dataclass(frozen=True)
class Row:
    """One line of the table. The goals are ratios to the peer of the same run."""

    name: str
    client: str
    workload: Workload
    rate_at_least: float | None = None
    cpu_at_most: float | None = None  # server CPU time per I/O


def _row(
    op: str,
    block_kib: int,
    depth: int,
    client: str,
    *,
    random: bool,
    rate_at_least: float,
    cpu_at_most: float | None = None,
) -> Row:
    how = "random" if random else "seq"
    return Row(
        name=f"{block_kib} KiB {how} {op} d{depth} {client}",
        client=client,
        workload=Workload(op, block_kib * KIB, depth, random),
        rate_at_least=rate_at_least,
        cpu_at_most=cpu_at_most,
    )


def small(op: str, depth: int, client: str) -> Row:
    """4 KiB, random. At depth 1 both sides wait for the scheduler, and CPU time is mostly its."""
    if depth == 1:
        return _row(op, 4, depth, client, random=True, rate_at_least=0.8)
    return _row(op, 4, depth, client, random=True, rate_at_least=1.5, cpu_at_most=0.6)


def large(op: str, depth: int, client: str) -> Row:
    """256 KiB, one after the other."""
    return _row(op, 256, depth, client, random=False, rate_at_least=0.8)


ROWS: tuple[Row, ...] = (
    small("read", 1, "iscsi-perf"),
    small("read", 32, "iscsi-perf"),
    small("read", 1, "qemu-img"),
    small("read", 32, "qemu-img"),
    small("write", 1, "qemu-img"),
    small("write", 32, "qemu-img"),
    large("read", 8, "iscsi-perf"),
    large("read", 8, "qemu-img"),
    large("write", 8, "qemu-img"),
)
