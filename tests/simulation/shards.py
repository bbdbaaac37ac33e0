"""How many Redis shards a described load needs, from what calls cost (``registry_cost.py``)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from target.cluster.node import RENEWALS

SHARD_BUSY = 0.5  # of one core: what is above makes calls wait for each other


@dataclass(frozen=True)
class Load:
    """Writes on all nodes together.  A read that lasts longer than 0.1 s counts as one."""

    luns: int
    writes_per_second: int  # of one LUN, all its nodes together
    batch: int  # that begin in one call
    others: int  # nodes that have writes on the same LUN

    @property
    def calls_per_second(self) -> float:
        return self.luns * self.writes_per_second / self.batch


@dataclass(frozen=True)
class Need:
    """What a load takes."""

    cores: float  # CPU seconds a second, of all shards together
    shards: int


def need(load: Load, submit_seconds: Callable[[int, int], float]) -> Need:
    """``submit_seconds(batch, others)`` is the CPU time of a call."""
    cores = load.calls_per_second * submit_seconds(load.batch, load.others)
    return Need(cores, max(1, math.ceil(cores / SHARD_BUSY)))


def renewals(nodes: int, lease_seconds: float, renew_seconds: float) -> float:
    """Part of the one shard that has the members which their renewals take."""
    return nodes * RENEWALS / lease_seconds * renew_seconds
