"""`python -m tests.simulation`, or `make simulate`: what tracking costs at scale.

Prints the tables of docs/scale.md: the registry on a real Redis, dying nodes on a played clock, and
the placement of chunks.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from target.cluster.node import RENEWALS
from tests.bench import machine
from tests.simulation.balance import Estate, balance, growth, lookup_seconds
from tests.simulation.failover import LEASE_SECONDS, Fleet, pauses, quantile
from tests.simulation.registry_cost import (
    WRITES_OF_OTHERS,
    Cost,
    RegistryCost,
    catalog_of,
    memory,
)
from tests.simulation.shards import SHARD_BUSY, Load, need, renewals
from tests.support.redis_server import RedisServer


@dataclass(frozen=True)
class Scale:
    """How much of it."""

    cpu_seconds: float  # of Redis, for each round of each cost
    batches: tuple[int, ...]
    others: tuple[int, ...]
    members: tuple[int, ...]
    nodes_of_events: tuple[int, ...]
    catalogs: tuple[tuple[int, int], ...]  # volumes, and nodes that all follow it
    entries: int
    spread: tuple[int, ...]  # LUNs that the entries are on
    fleet: Fleet
    estate: Estate
    places: tuple[int, ...]
    grown_chunks: int


FULL = Scale(
    cpu_seconds=0.5,
    batches=(1, 8, 32, 128),
    others=(0, 1, 3, 7),
    members=(10, 100, 1000),
    nodes_of_events=(2, 4, 8, 100, 1000),
    catalogs=((100, 10), (1000, 100), (10_000, 1000)),
    entries=100_000,
    spread=(1, 1000, 10_000),
    fleet=Fleet(nodes=1000, luns=10_000, nodes_of_lun=4, deaths=20),
    estate=Estate(volumes=10_000, chunks=1000, workers=10_000, places=16),
    places=(4, 16, 64, 256, 1000, 10_000),
    grown_chunks=100_000,
)
SHORT = Scale(
    cpu_seconds=0.01,
    batches=(1, 8),
    others=(0, 1),
    members=(10, 100),
    nodes_of_events=(2,),
    catalogs=((10, 2),),
    entries=10_000,
    spread=(1, 100),
    fleet=Fleet(nodes=50, luns=100, nodes_of_lun=3, deaths=3),
    estate=Estate(volumes=40, chunks=200, workers=40, places=8),
    places=(4, 16),
    grown_chunks=1000,
)
LOADS = (
    Load(luns=10_000, writes_per_second=20, batch=1, others=0),
    Load(luns=10_000, writes_per_second=200, batch=1, others=0),
    Load(luns=10_000, writes_per_second=200, batch=1, others=1),
    Load(luns=10_000, writes_per_second=200, batch=8, others=0),
    Load(luns=10_000, writes_per_second=200, batch=8, others=1),
    Load(luns=1000, writes_per_second=5000, batch=8, others=1),
)


class Simulation:
    """One call of the command."""

    def __init__(self, scale: Scale, seed: int) -> None:
        self._scale = scale
        self._seed = seed

    def run(self) -> None:
        """All tables."""
        for name, value in machine.describe().items():
            print(f"{name}: {value}")
        with (
            tempfile.TemporaryDirectory(prefix="lunmesh-") as folder,
            RedisServer(Path(folder)) as redis,
        ):
            with redis.client() as client:
                print(f"redis: {client.info('server')['redis_version']}")
            self._registry(redis)
        self._deaths()
        self._placement()

    def _registry(self, redis: RedisServer) -> None:
        scale, cost = self._scale, RegistryCost(redis, self._scale.cpu_seconds)
        submits = {
            (batch, others): cost.submit(batch, others)
            for others in scale.others
            for batch in scale.batches
        }
        _table(
            "Registering writes: CPU time of Redis a call (writes a second of one shard)",
            ("writes a call", *(_others(others) for others in scale.others)),
            (
                (batch, *(_call(submits[batch, others], batch) for others in scale.others))
                for batch in scale.batches
            ),
        )
        renews = {members: cost.renew(members) for members in scale.members}
        _table(
            f"Renewing a lease of {LEASE_SECONDS:g} s, {RENEWALS} times in its length",
            ("members", "CPU time a call", "of one core, all members together"),
            (
                (m, _call(cost), f"{renewals(m, LEASE_SECONDS, cost.seconds):.2%}")
                for m, cost in renews.items()
            ),
        )
        _table(
            "An event that all nodes of a LUN hear, do and acknowledge",
            ("nodes", "CPU time"),
            ((nodes, _call(cost.event(nodes))) for nodes in scale.nodes_of_events),
        )
        _table(
            "A change of the catalog: an event for all nodes (the table above), and each reads it",
            ("volumes", "nodes", "bytes", "CPU time of all readings"),
            (
                (f"{volumes:,}", f"{nodes:,}", f"{len(text):,}", f"{read.seconds * 1e3:.1f} ms")
                for volumes, nodes in scale.catalogs
                for text in [catalog_of(volumes)]
                for read in [cost.catalog(text, nodes)]
            ),
        )
        kept = [memory(redis, scale.entries, luns) for luns in scale.spread]
        _table(
            "Memory of Redis",
            ("commands in flight", "on LUNs", "bytes for each"),
            ((f"{k.entries:,}", f"{k.luns:,}", f"{k.bytes_per_entry:.0f}") for k in kept),
        )
        loads = [load for load in LOADS if (load.batch, load.others) in submits]
        needs = [need(load, lambda batch, others: submits[batch, others].seconds) for load in loads]
        _table(
            f"Shards, each busy {SHARD_BUSY:.0%} of a core",
            ("LUNs", "writes a second each", "writes a call", "other nodes", "cores", "shards"),
            (
                (f"{x.luns:,}", x.writes_per_second, x.batch, x.others, f"{n.cores:.1f}", n.shards)
                for x, n in zip(loads, needs, strict=True)
            ),
        )

    def _deaths(self) -> None:
        fleet = self._scale.fleet
        seen = pauses(fleet, self._seed)
        _table(
            f"{fleet.deaths} of {fleet.nodes:,} nodes die, one by one; {fleet.luns:,} LUNs on"
            f" {fleet.nodes_of_lun} nodes each; lease {LEASE_SECONDS:g} s.  Seconds from the death",
            ("", "number", "least", "median", "90 %", "99 %", "most"),
            (
                (what, len(values), *(f"{quantile(values, q):.2f}" for q in (0, 0.5, 0.9, 0.99, 1)))
                for what, values in (
                    ("claimed by another node", seen.claimed),
                    ("a write that it blocked goes on", seen.writes),
                    ("shut out everywhere, and forgotten", seen.reaped),
                )
            ),
        )
        print(f"\nBUSY meanwhile: {seen.busy} times for {len(seen.writes)} blocked writes.")
        print(f"{seen.renewals:,} renewals named {seen.told:,} members.")

    def _placement(self) -> None:
        scale, estate = self._scale, self._scale.estate
        even = balance(estate, self._seed)
        _table(
            f"{estate.volumes * estate.chunks:,} chunks of {estate.volumes:,} volumes on"
            f" {estate.workers:,} workers, {estate.places} places each",
            ("chunks on a worker", "", "to the mean"),
            (
                ("mean", f"{even.mean:,.0f}", ""),
                ("least", f"{even.lowest:,}", f"{even.lowest / even.mean:.2f}"),
                ("most", f"{even.highest:,}", f"{even.highest / even.mean:.2f}"),
                ("fullest place of a volume, median volume", "", f"{even.volume_median:.2f}"),
                ("fullest place of a volume, worst volume", "", f"{even.volume_highest:.2f}"),
            ),
        )
        grown = [growth(scale.grown_chunks, places) for places in scale.places if places <= 64]
        _table(
            "A volume gets one place more",
            ("places before", "chunks that move", "its even part", "between old places"),
            ((g.places, f"{g.moved:.2%}", f"{1 / (g.places + 1):.2%}", g.elsewhere) for g in grown),
        )
        _table(
            "Finding where a chunk is, the first time",
            ("places of the volume", "CPU time"),
            (
                (
                    f"{places:,}",
                    f"{lookup_seconds(places, range(max(20, 20_000 // places))) * 1e6:.1f} µs",
                )
                for places in scale.places
            ),
        )


def _others(others: int) -> str:
    if not others:
        return "alone"
    nodes = "node" if others == 1 else "nodes"
    return f"{others} other {nodes}, {WRITES_OF_OTHERS} writes each"


def _call(cost: Cost, batch: int = 1) -> str:
    return f"{cost.seconds * 1e6:.1f} µs ({cost.per_second * batch:,.0f}/s)"


def _table(title: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """As Markdown."""
    print(f"\n{title}:\n")
    print("|", " | ".join(headings), "|")
    print("|" + "---|" * len(headings))
    for row in rows:
        print("|", " | ".join(str(cell) for cell in row), "|")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a small cluster, in seconds")
    parser.add_argument("--seed", type=int, default=1, help="of what is played")
    chosen = parser.parse_args(arguments)
    Simulation(SHORT if chosen.short else FULL, chosen.seed).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
