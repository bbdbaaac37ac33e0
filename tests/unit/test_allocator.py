"""Memory that was freed is there for the next time."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Pieces as reads of 256 KiB come and go, 8 MiB in flight: the page faults of a hundred rounds.
ROUNDS = """
import resource
def rounds(count):
    for _ in range(count):
        pieces = [bytes(256 << 10) for _ in range(32)]
        del pieces
rounds(2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
rounds(100)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
KEPT = "from workers.allocator import keep_freed_memory\nkeep_freed_memory()\n"
PAGES = 32 * 64  # of a round


def faults(source: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=60
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_what_was_freed_is_not_faulted_in_again() -> None:
    assert faults(KEPT + ROUNDS) < PAGES
    assert faults(ROUNDS) > 10 * PAGES, "then none of this is needed any more"
