"""Very many commands that do not end, on a node whose worker is slow.

    with many_held(tmp_path, sessions=80, depth=125) as held:
        look_at(held.server)          # 10,000 READs of 1 block, block n of session n
        held.initiators[3].wait(...)

Nothing here depends on pytest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import cdb
from tests.support.initiator import Initiator
from tests.support.iscsi_task import Task
from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker

SLOW = "delay=3600s,volume=disk0"
# Of so much memory only what is used is taken; each command that may come has its part of it.
# Nobody answers pings here.
FLAGS = ("--worker-timeout", "3600", "--buffer-memory", "2G", "--nop-interval", "0")
BLOCK_BYTES = 512


@dataclass
class Held:
    """``tasks`` are those of each initiator; initiator n is called ``iqn.x:n`` with four digits."""

    server: LunmeshServer
    initiators: list[Initiator]
    tasks: list[list[Task]]


@contextlib.contextmanager
def many_held(folder: Path, *, sessions: int, depth: int) -> Iterator[Held]:
    """Command m of session n reads block ``n * depth + m``."""
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(LunmeshWorker(folder / "w", arguments=["--fault", SLOW]))
        arguments = [*FLAGS, "--worker", worker.address]
        server = LunmeshServer(folder / "s", ["disk0=16M"], arguments=arguments)
        stack.enter_context(server)
        held = Held(server, [], [])
        for number in range(sessions):
            name = f"iqn.x:{number:04}"
            one = Initiator(server.host, server.port, target=server.iqn, name=name)
            held.initiators.append(stack.enter_context(one))
            one.login()
            while one.command(cdb.TEST_UNIT_READY).sense_key == 6:
                pass
        for number, one in enumerate(held.initiators):
            held.tasks.append([_read(one, number * depth + each) for each in range(depth)])
            one.nop()  # all have been heard
        yield held


def _read(one: Initiator, block: int) -> Task:
    while one.cmd_sn - one.max_cmd_sn == 1:  # the window grows, but nobody would say so
        one.nop(immediate=True)
    return one.start(cdb.read10(block, 1), read_length=BLOCK_BYTES)
