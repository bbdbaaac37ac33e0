"""Two processes behind one portal beside one, over the same kind of worker, with Redis.

Behind a Unix socket a node that is alone on a volume reads what is cached there by itself
(docs/decisions/0015-direct-reads.md), which two processes cannot: they are two nodes.  Over TCP, as
with workers on other machines, none can.
"""

from __future__ import annotations

from tests.bench.cluster import with_redis
from tests.bench.servers import WORKER_TCP, WORKER_UNIX, Candidate, product_version

TWO_UNIX, ONE_UNIX = "2 processes, unix", "1 process, unix"
TWO_TCP, ONE_TCP = "2 processes, tcp", "1 process, tcp"
_SERVED = {
    TWO_UNIX: (2, WORKER_UNIX),
    ONE_UNIX: (1, WORKER_UNIX),
    TWO_TCP: (2, WORKER_TCP),
    ONE_TCP: (1, WORKER_TCP),
}


def by_processes() -> tuple[Candidate, ...]:
    """The product with two processes and with one, by the way to its worker."""
    return tuple(map(_candidate, _SERVED))


def _candidate(name: str) -> Candidate:
    processes, worker = _SERVED[name]
    return Candidate(name, product_version(), lambda disks: with_redis(disks, processes, worker))
