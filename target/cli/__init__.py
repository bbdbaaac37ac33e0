"""The command line, ``lunmesh``.  Commands import what they run when they run it."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """The console script."""
    fill_in_streams()
    from target.cli.run import run

    sys.exit(run(sys.argv[1:]))


def fill_in_streams() -> None:
    """/dev/null for each of stdin, stdout and stderr that whoever starts us has closed.

    Else their numbers go to the event loop and to disks, and what libraries write to a terminal
    ends up there; and Python has None for them.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)  # the processes of a node need them as well
            mode = "w" if number else "r"
            stream = open(number, mode, errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
