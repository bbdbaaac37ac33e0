"""A soak run: rounds of chaos with everything on, and after each what every process still holds.

Rules:

1. Node 0 lives through the whole run: it is never killed, and what it holds grows or does not.  The
   other node is killed and stopped, and so are all workers and Redis.
2. The first round is for warming up.  What is there after the last one is compared with what was
   there after the first.
3. Each round checks its own history, on a disk that reads as zeros when it begins, so that the run
   itself holds no more the longer it takes.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from target.admin.client import AdminClient
from target.config.values import parse_portal
from tests.chaos.blocks import BLOCK_BYTES
from tests.chaos.cluster import VOLUME_BYTES, Cluster, running_cluster
from tests.chaos.run import HEAL_SECONDS, PACE_SECONDS, harm, logged_in
from tests.chaos.zones import Violation
from tests.soak.churn import EVERYBODY, Churn
from tests.soak.sample import Held, grown, left_on_workers, take, wait_until_quiet
from tests.support import cdb

NODES = 2
ROUNDS_MIN = 2
REASONS_LISTED = 12
ROUND_SECONDS = 30.0
_UNMAP = 0x08  # of WRITE SAME
_ZEROED_BLOCKS = 32768  # by one command
# Small pools, so that they are all in use soon; everything that a node can be told to do.
_FLAGS = ["--buffer-memory", "32M", "--log-format", "json", "--log-level", "debug"]


@dataclass
class Report:
    """What was done, and what has grown."""

    seed: int
    rounds: int = 0
    seconds: float = 0.0
    injected: Counter[str] = field(default_factory=Counter)
    operations: int = 0
    churned: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    overdue: int = 0
    left: int = 0  # shares of volumes that have gone
    first: Held = field(default_factory=dict)
    last: Held = field(default_factory=dict)

    @property
    def grown(self) -> list[str]:
        return grown(self.first, self.last)

    @property
    def clean(self) -> bool:
        """Whether nothing was lost and nothing has grown."""
        return not (self.violations or self.overdue or self.grown or self.left)

    def __str__(self) -> str:
        def listed(counts: Counter[str]) -> str:
            return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))

        held = self.last.items()
        return "\n".join(
            [
                f"seed {self.seed}, {self.seconds / 60:.1f} minutes, {self.rounds} rounds",
                f"faults: {listed(self.injected)}",
                f"operations on blocks: {self.operations}",
                f"beside them: {listed(self.churned)}",
                f"of that refused while something was away: {listed(self.refused)}",
                *(f"  {count:5} {why}" for why, count in self.reasons.most_common(REASONS_LISTED)),
                f"commands that were not answered in time: {self.overdue}",
                f"violations: {len(self.violations)}",
                f"{'':24}{'first':>10}{'last':>10}",
                *(f"{name:24}{self.first[name]:10.1f}{now:10.1f}" for name, now in held),
                f"shares left on workers: {self.left}",
                f"grown: {len(self.grown)}",
                *(f"  {line}" for line in self.grown),
            ]
        )


def soak(folder: Path, *, seconds: float, seed: int) -> Report:
    """At least ``ROUNDS_MIN`` rounds.  Raises TimeoutError where nothing goes on, or never ends."""
    report = Report(seed)
    began = time.monotonic()
    with running_cluster(folder, NODES, arguments=_FLAGS) as cluster:
        admin = AdminClient(parse_portal(cluster.nodes[0].server.admin))
        admin.send("PUT", "/v1/acls", EVERYBODY, dict)
        while report.rounds < ROUNDS_MIN or time.monotonic() - began < seconds:
            _round(cluster, report)
    report.seconds = time.monotonic() - began
    return report


def _round(cluster: Cluster, report: Report) -> None:
    seed = report.seed + report.rounds
    _zero(cluster)
    victims = replace(cluster, nodes=cluster.nodes[1:])  # rule 1
    churn = Churn(cluster, seed)
    with churn:
        done = harm(cluster, victims, seconds=ROUND_SECONDS, seed=seed, restart_workers=False)
    churn.clear(HEAL_SECONDS)
    wait_until_quiet(cluster)
    report.rounds += 1
    report.injected += done.injected
    report.operations += sum(done.operations.values())
    report.churned += churn.done
    report.refused += churn.failed
    report.reasons += churn.reasons
    report.violations += done.violations
    report.overdue += done.overdue
    report.last = take(cluster)
    report.left = _left(cluster)
    report.first = report.first or report.last  # rule 2


def _left(cluster: Cluster) -> int:
    """What is still on the workers when nodes have had time to delete it."""
    deadline = time.monotonic() + HEAL_SECONDS
    while (left := left_on_workers(cluster)) and time.monotonic() < deadline:
        time.sleep(PACE_SECONDS)
    return left


def _zero(cluster: Cluster) -> None:
    """Rule 3."""
    server = cluster.nodes[0].server
    deadline = time.monotonic() + HEAL_SECONDS
    with logged_in((server.host, server.port, server.iqn)) as iscsi:
        for first in range(0, VOLUME_BYTES // BLOCK_BYTES, _ZEROED_BLOCKS):
            command = cdb.write_same16(first, _ZEROED_BLOCKS, _UNMAP)
            while (task := iscsi.command(command, data_out=bytes(BLOCK_BYTES))).status:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"cannot zero block {first}: sense {task.sense_triple}")
        iscsi.logout()
