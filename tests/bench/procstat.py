"""What the kernel says about a process: CPU time and memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes, all their threads included, also ended ones."""
    return sum(_stat_seconds(Path(f"/proc/{pid}/stat")) for pid in pids)


def thread_cpu_seconds(pid: int, thread: int) -> float:
    """User and system time of one thread; the main one has the number of its process."""
    return _stat_seconds(Path(f"/proc/{pid}/task/{thread}/stat"))


def _stat_seconds(path: Path) -> float:
    # The second field is the program's name in brackets and may have blanks in it.
    fields = path.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def memory_bytes(pids: Iterable[int], field: str = "VmRSS") -> int:
    """A field of /proc/PID/status: VmRSS is what is resident now, VmHWM the most that ever was."""
    total = 0
    for pid in pids:
        found = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.M)
        if found is None:
            raise ValueError(f"/proc/{pid}/status has no {field}")
        total += int(found[1]) << 10
    return total
