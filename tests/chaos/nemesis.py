"""Does harm to a cluster, mostly one thing at a time, in an order that a seed decides.

Rules:

1. Every fault comes once in each round; afterwards the cluster is whole again.
2. Now and then a fault of another kind (of workers, nodes, Redis) begins before one is over.
3. A worker that loses flushes is by itself: what the next flush owes is known only as long as no
   node may have forgotten what was lost (checker.py, rule 6).
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from tests.chaos.alone_faults import AloneFaults
from tests.chaos.checker import LOST_FLUSH
from tests.chaos.cluster import Cluster
from tests.chaos.hands import Hands
from tests.chaos.history import End, History, Op
from tests.chaos.node_faults import NodeFaults
from tests.chaos.worker_faults import WorkerFaults

PAUSE_SECONDS = (0.1, 0.6)
OVERLAPS = 0.2  # of the faults
APART_SECONDS = (0.0, 0.4)  # two that overlap


class Nemesis:
    """Of one cluster; what it has done is counted."""

    def __init__(
        self,
        cluster: Cluster,
        history: History,
        seed: int,
        only: Collection[str] = (),
        *,
        whole: bool = True,
    ) -> None:
        """``only`` are the names of the faults to inject; none stands for all.  ``whole``: there
        are no nodes beside those of ``cluster``, so one of them can be alone.

        Over RADOS it is the workers that are harmed.  Raises ValueError for a name that is none.
        """
        self._history = history
        self._hands = Hands(seed)
        self._workers = WorkerFaults(cluster, history, self._hands)
        self._alone: AloneFaults | None = None
        self.injected: Counter[str] = Counter()
        self.overlapped: Counter[str] = Counter()
        kinds = [self._workers.faults()]
        if cluster.ceph is None:
            nodes = NodeFaults(cluster, self._hands)
            kinds += [nodes.faults(), nodes.redis_faults()]
            if whole and cluster.redis is not None:
                self._alone = AloneFaults(cluster, history, self._hands)
                kinds[1] |= self._alone.faults()
        faults = {name: fault for kind in kinds for name, fault in kind.items()}
        if unknown := set(only) - set(faults):
            raise ValueError(f"no such fault: {', '.join(sorted(unknown))}")
        self._faults = {name: faults[name] for name in only or faults}
        self._kinds = {name: number for number, kind in enumerate(kinds) for name in kind}

    @property
    def stand_ins(self) -> int:
        """How often others have stood in for a worker."""
        return self._workers.stand_ins

    @property
    def hand_overs(self) -> int:
        """How often a node has come to one that was alone."""
        return self._alone.hand_overs if self._alone is not None else 0

    def run(self, seconds: float) -> None:
        """Begins no fault after ``seconds``, but ends its first round."""
        end = time.monotonic() + seconds
        for number in itertools.count():
            names = list(self._faults)
            self._hands.random.shuffle(names)
            for name in names:
                self._hands.wait(PAUSE_SECONDS)
                if number and time.monotonic() > end:
                    return
                self._inject(name)

    def _inject(self, name: str) -> None:
        self.injected[name] += 1
        others = self._others(name)  # rule 2
        if not others or self._hands.random.random() >= OVERLAPS:
            self._do(name)
            return
        other = self._hands.random.choice(others)
        self.injected[other] += 1
        self.overlapped[f"{name} + {other}"] += 1
        with ThreadPoolExecutor(1) as thread:
            first = thread.submit(self._do, name)
            self._hands.wait(APART_SECONDS)
            self._do(other)
            first.result()

    def _others(self, name: str) -> list[str]:
        """What may be done beside it."""
        kinds = self._kinds
        if name == LOST_FLUSH:  # rule 3
            return []
        return [it for it in self._faults if kinds[it] != kinds[name] and it != LOST_FLUSH]

    def _do(self, name: str) -> None:
        if name == LOST_FLUSH:  # it says itself from when to when it holds
            self._faults[name]()
            return
        fault = self._history.invoke("nemesis", Op.FAULT, detail=name)
        self._faults[name]()
        self._history.end(End.INFO, fault, "nemesis", Op.FAULT, detail=name)
