"""Does harm to a cluster, one thing at a time, in an order that a seed decides."""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

from tests.chaos.checker import LOST_FLUSH
from tests.chaos.cluster import WORKER_SECONDS, Cluster, Member
from tests.chaos.history import End, History, Op

PAUSE_SECONDS = (0.1, 0.6)
SHORT_SECONDS = (0.1, 0.6)
LONG_SECONDS = (1.2 * WORKER_SECONDS, 2.5 * WORKER_SECONDS)


class Nemesis:
    """Every fault comes once in each round; afterwards the cluster is whole again."""

    def __init__(self, cluster: Cluster, history: History, seed: int) -> None:
        self._cluster = cluster
        self._history = history
        self._random = random.Random(seed)
        self.injected: Counter[str] = Counter()
        self._faults: dict[str, Callable[[Member], None]] = {
            "kill": self._kill,
            "kill while away": self._kill_and_wait,
            "stop briefly": self._stop_briefly,
            "stop": self._stop,
            "cut": self._cut,
            "hold": self._hold,
            LOST_FLUSH: self._lose_flushes,
        }
        if not cluster.no_disks:
            self._faults["fill disk"] = self._fill

    def run(self, seconds: float) -> None:
        """Begins no fault after ``seconds``, but ends its first round."""
        end = time.monotonic() + seconds
        for number in itertools.count():
            names = list(self._faults)
            self._random.shuffle(names)
            for name in names:
                self._wait(PAUSE_SECONDS)
                if number and time.monotonic() > end:
                    return
                member = self._random.choice(self._cluster.members)
                self._inject(name, member)

    def _inject(self, name: str, member: Member) -> None:
        self.injected[name] += 1
        if name == LOST_FLUSH:  # it says itself from when to when it holds
            self._faults[name](member)
            return
        fault = self._history.invoke("nemesis", Op.FAULT, detail=name)
        self._faults[name](member)
        self._history.end(End.INFO, fault, "nemesis", Op.FAULT, detail=name)

    def _wait(self, seconds: tuple[float, float]) -> None:
        time.sleep(self._random.uniform(*seconds))

    def _kill(self, member: Member) -> None:
        member.worker.kill()
        member.worker.start()

    def _kill_and_wait(self, member: Member) -> None:
        member.worker.kill()
        self._wait(LONG_SECONDS)
        member.worker.start()

    def _stop_briefly(self, member: Member) -> None:
        self._stopped_for(member, SHORT_SECONDS)

    def _stop(self, member: Member) -> None:
        """For longer than a command waits: its writes are in doubt when it wakes."""
        self._stopped_for(member, LONG_SECONDS)

    def _stopped_for(self, member: Member, seconds: tuple[float, float]) -> None:
        member.worker.signal(signal.SIGSTOP)
        self._wait(seconds)
        member.worker.signal(signal.SIGCONT)

    def _cut(self, member: Member) -> None:
        for _ in range(self._random.randint(1, 4)):
            member.relay.cut()
            self._wait(SHORT_SECONDS)

    def _hold(self, member: Member) -> None:
        """The network drops everything; then what was in it arrives, or is cut off."""
        member.relay.hold()
        self._wait(self._random.choice((SHORT_SECONDS, LONG_SECONDS)))
        if self._random.random() < 0.5:
            member.relay.cut()
        member.relay.release()

    def _fill(self, member: Member) -> None:
        assert member.disk is not None
        member.disk.fill()
        self._wait(LONG_SECONDS)
        member.disk.empty()

    def _lose_flushes(self, member: Member) -> None:
        member.worker.kill()
        member.worker.start("--fault", "lost-flush=1")
        fault = self._history.invoke("nemesis", Op.FAULT, detail=LOST_FLUSH)
        self._wait(LONG_SECONDS)
        self._history.end(End.INFO, fault, "nemesis", Op.FAULT, detail=LOST_FLUSH)
        member.worker.kill()
        member.worker.start()
