"""The order of a task's attributes, told to CPython before there are any tasks.

CPython keeps the names of instance attributes once for a class, in the order in which objects were
given them, 29 at most; an object with another one has a dict of its own, which is slower and takes
a KiB more.  So those of commands that move data come first, and not what a login happens to
set.  Rules:

1. What every command has, what a write has in its pass, then what one has that waits.
2. ``tests/unit/test_task_names.py`` looks that none of those has a dict of its own.
"""

from __future__ import annotations

from typing import Final

from target.iscsi.task import IscsiTask

NAMES: Final = (
    *("hba", "attachment", "lun", "tag", "cdb", "started_at", "command"),
    *("direction", "lba", "blocks", "length", "state", "edtl", "expected", "transfer", "moved"),
    *("finished_at", "reads", "writes", "early", "early_length", "early_transient"),
    *("lingers", "on_end", "_coroutine", "_wait", "early_segments", "bursts", "solicitation"),
)
NAMES_MAX: Final = 29  # SHARED_KEYS_MAX_SIZE of CPython, less one for the object that is first

assert len(NAMES) <= NAMES_MAX


def put_in_order() -> None:
    """Before the first task; again it changes nothing."""
    if IscsiTask.__dictoffset__:  # else it is compiled, and has slots
        task = IscsiTask.__new__(IscsiTask)
        for name in NAMES:
            setattr(task, name, None)
