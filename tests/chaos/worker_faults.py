"""What is done to workers.

Over files a worker that is away is waited for.  Over RADOS others stand in for it, after it has
been shut out at the OSDs: the long faults last until they do.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from tests.chaos.checker import LOST_FLUSH
from tests.chaos.cluster import Cluster, Member
from tests.chaos.hands import Fault, Hands
from tests.chaos.history import End, History, Op
from tests.support.volume_command import VolumeCommand

LONG_FACTORS = (1.2, 2.5)  # of the time that a command waits for a worker
RECOVERY_SECONDS_MAX = 60.0


class WorkerFaults:
    """The faults of one cluster's workers."""

    def __init__(self, cluster: Cluster, history: History, hands: Hands) -> None:
        self._cluster = cluster
        self._history = history
        self._hands = hands

    def faults(self) -> dict[str, Fault]:
        """By name."""
        faults = {
            "worker killed": self._killed,
            "worker killed and away": self._away,
            "worker stopped briefly": self._stopped_briefly,
            "worker stopped": self._stopped,
            "worker cut off": lambda member: self._hands.cut(member.relay),
            "worker unreachable": lambda member: self._hands.hold(member.relay, self._long_wait()),
        }
        if self._cluster.ceph is not None:
            faults["worker stopped with the OSD"] = self._stopped_with_osd
        else:
            faults[LOST_FLUSH] = self._lose_flushes
        if not self._cluster.no_disks:
            faults["worker's disk full"] = self._fill
        return {
            name: self._hands.on_one_of(self._cluster.members, fault)
            for name, fault in faults.items()
        }

    @property
    def stand_ins(self) -> int:
        """How often others have stood in for a worker."""
        said = (node.server.stderr() for node in self._cluster.nodes)
        return sum(text.count("others stand in") for text in said)

    def _long_wait(self) -> Fault:
        """To be called before a member goes away: how to wait then.

        Over RADOS, until others stand in for it; so somebody has to be there that can.
        """
        if self._cluster.ceph is None:
            low, high = LONG_FACTORS
            seconds = self._cluster.worker_seconds
            return lambda: self._hands.wait((low * seconds, high * seconds))
        self._until_all_serve()
        seen = self.stand_ins

        def until_others_stand_in() -> None:
            self._until("nobody stands in for a worker that is away", lambda: self.stand_ins > seen)
            self._hands.wait_briefly()

        return until_others_stand_in

    def _until_all_serve(self) -> None:
        volumes = [VolumeCommand(node.server) for node in self._cluster.nodes]

        def served() -> bool:
            shown = [volume.json("show", "disk0") for volume in volumes]
            return all(worker["served"] for each in shown for worker in each["workers"])

        self._until("a worker does not come back", served)

    def _until(self, problem: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + RECOVERY_SECONDS_MAX
        while not condition():
            if time.monotonic() > deadline:
                said = self._cluster.nodes[0].server.stderr()[-3000:]
                raise TimeoutError(f"{problem}:\n{said}")
            time.sleep(0.05)

    def _killed(self, member: Member) -> None:
        member.worker.kill()
        member.worker.start()

    def _away(self, member: Member) -> None:
        wait = self._long_wait()
        member.worker.kill()
        wait()
        member.worker.start()

    def _stopped_briefly(self, member: Member) -> None:
        self._hands.stop(member.worker.pid, self._hands.wait_briefly)

    def _stopped(self, member: Member) -> None:
        """For longer than a command waits, or until its chunks are elsewhere: its writes are in
        doubt, or have been superseded, when it wakes.
        """
        self._hands.stop(member.worker.pid, self._long_wait())

    def _stopped_with_osd(self, member: Member) -> None:
        """Its writes are in the queue of the OSD while it is shut out there."""
        assert self._cluster.ceph is not None
        osd, worker = self._cluster.ceph.osd_pid, member.worker.pid
        wait = self._long_wait()
        os.kill(osd, signal.SIGSTOP)
        try:
            self._hands.wait_briefly()
            os.kill(worker, signal.SIGSTOP)
            wait()
        finally:
            os.kill(osd, signal.SIGCONT)
        self._hands.wait_briefly()
        os.kill(worker, signal.SIGCONT)

    def _fill(self, member: Member) -> None:
        assert member.disk is not None
        member.disk.fill()
        self._long_wait()()
        member.disk.empty()

    def _lose_flushes(self, member: Member) -> None:
        member.worker.kill()
        member.worker.start("--fault", "lost-flush=1")
        fault = self._history.invoke("nemesis", Op.FAULT, detail=LOST_FLUSH)
        self._long_wait()()
        if self._hands.random.random() < 0.5:
            member.worker.kill()
        elif (status := member.worker.stop()) != 1:
            raise AssertionError(f"exit status {status} after a last flush that was lost")
        self._history.end(End.INFO, fault, "nemesis", Op.FAULT, detail=LOST_FLUSH)
        member.worker.start()
