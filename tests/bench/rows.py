"""What is measured: one client's load on one disk."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.clients import Workload

KIB = 1024


@dataclass(frozen=True)
class Row:
    """One line of the tables."""

    name: str
    client: str
    workload: Workload


def small(op: str, depth: int, client: str) -> Row:
    """4 KiB, random. At depth 1 both sides wait for the scheduler, and CPU time is mostly its."""
    return Row(f"4 KiB random {op} d{depth} {client}", client, Workload(op, 4 * KIB, depth, True))


def large(op: str, depth: int, client: str) -> Row:
    """256 KiB, one after the other."""
    return Row(f"256 KiB seq {op} d{depth} {client}", client, Workload(op, 256 * KIB, depth, False))


LOCAL_ROWS = (
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
WORKER_ROWS = (
    small("read", 1, "iscsi-perf"),
    small("read", 32, "iscsi-perf"),
    small("write", 1, "qemu-img"),
    small("write", 32, "qemu-img"),
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
CEPH_ROWS = (
    small("read", 1, "iscsi-perf"),
    small("read", 32, "iscsi-perf"),
    small("write", 1, "qemu-img"),
    small("write", 32, "qemu-img"),
    large("read", 32, "iscsi-perf"),
    large("write", 32, "qemu-img"),
)
