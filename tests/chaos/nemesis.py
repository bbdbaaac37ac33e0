"""Does harm to a cluster, one thing at a time, in an order that a seed decides.

Over files a worker that is away is waited for.  Over RADOS others stand in for it, after it has
been shut out at the OSDs: the long faults last until they do.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

from tests.chaos.checker import LOST_FLUSH
from tests.chaos.cluster import Cluster, Member
from tests.chaos.history import End, History, Op
from tests.support.volume_command import VolumeCommand

PAUSE_SECONDS = (0.1, 0.6)
SHORT_SECONDS = (0.1, 0.6)
LONG_FACTORS = (1.2, 2.5)  # of the time that a command waits for a worker
RECOVERY_SECONDS_MAX = 60.0


class Nemesis:
    """Every fault comes once in each round; afterwards the cluster is whole again."""

    def __init__(self, cluster: Cluster, history: History, seed: int) -> None:
        self._cluster = cluster
        self._history = history
        self._random = random.Random(seed)
        self.injected: Counter[str] = Counter()
        self._stand_ins_seen = 0
        self._faults: dict[str, Callable[[Member], None]] = {
            "kill": self._kill,
            "kill while away": self._kill_and_wait,
            "stop briefly": self._stop_briefly,
            "stop": self._stop,
            "cut": self._cut,
            "hold": self._hold,
        }
        if cluster.ceph is not None:
            self._faults["stop with the OSD"] = self._stop_with_osd
        else:
            self._faults[LOST_FLUSH] = self._lose_flushes
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

    def _before_long(self) -> None:
        """Over RADOS somebody has to be able to stand in, and not to do so already."""
        if self._cluster.ceph is not None:
            self._until_all_serve()
            self._stand_ins_seen = self.stand_ins

    def _wait_long(self) -> None:
        """Over RADOS, until others stand in for the member that is away."""
        if self._cluster.ceph is None:
            low, high = LONG_FACTORS
            self._wait((low * self._cluster.worker_seconds, high * self._cluster.worker_seconds))
            return
        seen = self._stand_ins_seen
        self._until("nobody stands in for a worker that is away", lambda: self.stand_ins > seen)
        self._wait(SHORT_SECONDS)

    def _until_all_serve(self) -> None:
        volumes = [VolumeCommand(target) for target in self._cluster.targets]

        def served() -> bool:
            shown = [volume.json("show", "disk0") for volume in volumes]
            return all(worker["served"] for each in shown for worker in each["workers"])

        self._until("a worker does not come back", served)

    def _until(self, problem: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + RECOVERY_SECONDS_MAX
        while not condition():
            if time.monotonic() > deadline:
                said = self._cluster.targets[0].stderr()[-3000:]
                raise TimeoutError(f"{problem}:\n{said}")
            time.sleep(0.05)

    @property
    def stand_ins(self) -> int:
        """How often others have stood in for a worker."""
        return sum(target.stderr().count("others stand in") for target in self._cluster.targets)

    def _kill(self, member: Member) -> None:
        member.worker.kill()
        member.worker.start()

    def _kill_and_wait(self, member: Member) -> None:
        self._before_long()
        member.worker.kill()
        self._wait_long()
        member.worker.start()

    def _stop_briefly(self, member: Member) -> None:
        member.worker.signal(signal.SIGSTOP)
        self._wait(SHORT_SECONDS)
        member.worker.signal(signal.SIGCONT)

    def _stop(self, member: Member) -> None:
        """For longer than a command waits, or until its chunks are elsewhere: its writes are in
        doubt, or have been superseded, when it wakes.
        """
        self._before_long()
        member.worker.signal(signal.SIGSTOP)
        self._wait_long()
        member.worker.signal(signal.SIGCONT)

    def _stop_with_osd(self, member: Member) -> None:
        """Its writes are in the queue of the OSD while it is shut out there."""
        assert self._cluster.ceph is not None
        self._before_long()
        osd = self._cluster.ceph.osd_pid
        os.kill(osd, signal.SIGSTOP)
        try:
            self._wait(SHORT_SECONDS)
            member.worker.signal(signal.SIGSTOP)
            self._wait_long()
        finally:
            os.kill(osd, signal.SIGCONT)
        self._wait(SHORT_SECONDS)
        member.worker.signal(signal.SIGCONT)

    def _cut(self, member: Member) -> None:
        for _ in range(self._random.randint(1, 4)):
            member.relay.cut()
            self._wait(SHORT_SECONDS)

    def _hold(self, member: Member) -> None:
        """The network drops everything; then what was in it arrives, or is cut off."""
        long = self._random.random() < 0.5
        if long:
            self._before_long()
        member.relay.hold()
        if long:
            self._wait_long()
        else:
            self._wait(SHORT_SECONDS)
        if self._random.random() < 0.5:
            member.relay.cut()
        member.relay.release()

    def _fill(self, member: Member) -> None:
        assert member.disk is not None
        member.disk.fill()
        self._wait_long()
        member.disk.empty()

    def _lose_flushes(self, member: Member) -> None:
        member.worker.kill()
        member.worker.start("--fault", "lost-flush=1")
        fault = self._history.invoke("nemesis", Op.FAULT, detail=LOST_FLUSH)
        self._wait_long()
        self._history.end(End.INFO, fault, "nemesis", Op.FAULT, detail=LOST_FLUSH)
        member.worker.kill()
        member.worker.start()
