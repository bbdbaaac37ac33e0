"""What is measured: one client's load on one disk."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.bench.clients import Workload

KIB = 1024


@dataclass(frozen=True)
class Row:
    """One line of the tables."""

    name: str
    client: str
    workload: Workload
    cached: bool = True  # else nothing of the file is in memory when a run begins
    half_of: str = ""  # at half the rate that the peer had in the row of this name


def small(op: str, depth: int, client: str) -> Row:
    """4 KiB, random. At depth 1 both sides wait for the scheduler, and CPU time is mostly its."""
    return Row(f"4 KiB random {op} d{depth} {client}", client, Workload(op, 4 * KIB, depth, True))


def large(op: str, depth: int, client: str) -> Row:
    """256 KiB, one after the other."""
    return Row(f"256 KiB seq {op} d{depth} {client}", client, Workload(op, 256 * KIB, depth, False))


FLAT_OUT = small("read", 32, "load")
DIGEST_ROWS = tuple(
    Row(f"{row.name}, digests", row.client, replace(row.workload, digests=True))
    for row in (
        small("read", 32, "load"),
        small("write", 32, "load"),
        large("read", 8, "load"),
        large("write", 8, "load"),
    )
)
LOCAL_ROWS = (
    small("read", 1, "load"),
    FLAT_OUT,
    Row(
        "4 KiB random read at half of tgtd's rate load",
        "load",
        replace(FLAT_OUT.workload, rate=1.0),
        half_of=FLAT_OUT.name,
    ),
    small("write", 1, "load"),
    small("write", 32, "load"),
    small("mix", 32, "load"),
    Row(
        "4 KiB random read, 8 sessions × d16 load",
        "load",
        Workload("read", 4 * KIB, 16, True, sessions=8),
    ),
    large("read", 8, "load"),
    large("write", 8, "load"),
    Row("4 KiB random read d32, nothing cached load", "load", FLAT_OUT.workload, cached=False),
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
FLOOR_ROWS = (FLAT_OUT,)
WORKER_ROWS = (
    small("read", 1, "iscsi-perf"),
    small("read", 32, "iscsi-perf"),
    small("read", 128, "load"),
    small("write", 1, "qemu-img"),
    small("write", 32, "qemu-img"),
    small("write", 128, "load"),
    large("read", 8, "load"),
    large("write", 8, "load"),
    large("read", 1, "iscsi-perf"),
    large("read", 32, "iscsi-perf"),
    large("write", 1, "qemu-img"),
    large("write", 32, "qemu-img"),
)
CLUSTER_ROWS = (
    small("read", 1, "iscsi-perf"),
    small("read", 32, "iscsi-perf"),
    small("write", 1, "qemu-img"),
    small("write", 32, "qemu-img"),
)
PROCESS_ROWS = tuple(
    Row(
        f"4 KiB random {op}, 8 sessions × d16 load",
        "load",
        Workload(op, 4 * KIB, 16, True, sessions=8),
    )
    for op in ("read", "write")
)
# Reads at multiples of their size, as of file systems: iscsi-perf's random ones begin at any block,
# and caches of pages keep nothing of those.  Writes by who flushes: caches of writes wait for that.
CEPH_ROWS = (
    small("read", 1, "load"),
    small("read", 32, "load"),
    small("write", 1, "qemu-img"),
    small("write", 32, "qemu-img"),
    large("read", 32, "load"),
    large("write", 32, "qemu-img"),
)
