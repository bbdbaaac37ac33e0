"""Commands that move data have no dict of their own: each name that one sets is one of the first.

In a process of its own: what earlier tests have done decides which names are first.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from target.iscsi.task_names import NAMES

KIB = 1024
SHARED_BYTES_MAX = 320  # of a dict whose names are kept for the whole class; else 832 and more
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys, tempfile
from pathlib import Path
from target.iscsi.task import IscsiTask
from tests.support.hot_path import hot_path

tasks = []
parse = IscsiTask.parse
def noted(self, *args):
    tasks.append(self)
    parse(self, *args)
IscsiTask.parse = noted
with tempfile.TemporaryDirectory() as folder, hot_path(
    Path(folder), write=sys.argv[1] == "write", nbytes=int(sys.argv[2])
) as path:
    path.run(1)
names = vars(tasks[-1])
print(sys.getsizeof(names), *names)
"""


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="of CPython 3.11")
@pytest.mark.parametrize("nbytes", [4 * KIB, 256 * KIB])
@pytest.mark.parametrize("op", ["read", "write"])
def test_a_command_has_no_dict_of_its_own(op: str, nbytes: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, op, str(nbytes)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    size, *names = done.stdout.split()
    assert not set(names) - set(NAMES)
    assert int(size) <= SHARED_BYTES_MAX
