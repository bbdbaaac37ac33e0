"""How the nemesis lays hands on processes and networks, for times that its seed decides."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from tests.support.relay import Relay

SHORT_SECONDS = (0.1, 0.6)
Seconds = tuple[float, float]  # at least, at most
Fault = Callable[[], None]  # returns when it is over
_Victim = TypeVar("_Victim")


class Hands:
    """All that is random about faults."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def wait(self, seconds: Seconds) -> None:
        """For so long."""
        time.sleep(self.random.uniform(*seconds))

    def wait_briefly(self) -> None:
        """For less than any time-out."""
        self.wait(SHORT_SECONDS)

    def on_one_of(self, victims: Sequence[_Victim], fault: Callable[[_Victim], None]) -> Fault:
        """The fault, each time on one of these."""
        return lambda: fault(self.random.choice(victims))

    def stop(self, pid: int, wait: Fault) -> None:
        """A process stands still meanwhile."""
        os.kill(pid, signal.SIGSTOP)
        try:
            wait()
        finally:
            os.kill(pid, signal.SIGCONT)

    def cut(self, relay: Relay) -> None:
        """Connections break, a few times."""
        for _ in range(self.random.randint(1, 4)):
            relay.cut()
            self.wait_briefly()

    def hold(self, relay: Relay, wait_long: Fault) -> None:
        """The network drops everything; then what was in it arrives, or is cut off."""
        relay.hold()
        if self.random.random() < 0.5:
            self.wait_briefly()
        else:
            wait_long()
        if self.random.random() < 0.5:
            relay.cut()
        relay.release()
