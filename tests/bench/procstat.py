"""What the kernel says about a process: CPU time and memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes, all their threads included, also ended ones."""
    ticks = 0
    for pid in pids:
        # The second field is the program's name in brackets and may have blanks in it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_PER_SECOND


def memory_bytes(pids: Iterable[int], field: str = "VmRSS") -> int:
    """A field of /proc/PID/status: VmRSS is what is resident now, VmHWM the most that ever was."""
    total = 0
    for pid in pids:
        found = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.M)
        if found is None:
            raise ValueError(f"/proc/{pid}/status has no {field}")
        total += int(found[1]) << 10
    return total
