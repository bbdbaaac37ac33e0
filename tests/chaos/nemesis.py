"""Does harm to a cluster, one thing at a time, in an order that a seed decides."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Collection

from tests.chaos.checker import LOST_FLUSH
from tests.chaos.cluster import Cluster
from tests.chaos.hands import Hands
from tests.chaos.history import End, History, Op
from tests.chaos.node_faults import NodeFaults
from tests.chaos.worker_faults import WorkerFaults

PAUSE_SECONDS = (0.1, 0.6)


class Nemesis:
    """Every fault comes once in each round; afterwards the cluster is whole again."""

    def __init__(
        self, cluster: Cluster, history: History, seed: int, only: Collection[str] = ()
    ) -> None:
        """``only`` are the names of the faults to inject; none stands for all.

        Over RADOS it is the workers that are harmed.  Raises ValueError for a name that is none.
        """
        self._history = history
        self._hands = Hands(seed)
        self._workers = WorkerFaults(cluster, history, self._hands)
        self.injected: Counter[str] = Counter()
        faults = self._workers.faults()
        if cluster.ceph is None:
            faults |= NodeFaults(cluster, self._hands).faults()
        if unknown := set(only) - set(faults):
            raise ValueError(f"no such fault: {', '.join(sorted(unknown))}")
        self._faults = {name: faults[name] for name in only or faults}

    @property
    def stand_ins(self) -> int:
        """How often others have stood in for a worker."""
        return self._workers.stand_ins

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
        if name == LOST_FLUSH:  # it says itself from when to when it holds
            self._faults[name]()
            return
        fault = self._history.invoke("nemesis", Op.FAULT, detail=name)
        self._faults[name]()
        self._history.end(End.INFO, fault, "nemesis", Op.FAULT, detail=name)
