"""The processes of `lunmesh serve --processes N`, as the system has them."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from tests.support.lunmesh_server import LunmeshServer, free_port


def processes_of(server: LunmeshServer) -> dict[int, int]:
    """By process id, which of the processes of a running server it is: 1, 2 …"""
    found = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    names = {int(pid): Path(f"/proc/{pid}/cmdline").read_text().split("\0")[-2] for pid in found}
    return {pid: int(name.rpartition("-")[2]) for pid, name in names.items()}


def alive(pid: int) -> bool:
    """Whether it is there, and does not only wait to be asked for its exit status."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def first_of_two_free() -> int:
    """A port for the admin API of the first of two processes; the second one has the next."""
    while True:
        port = free_port()
        with contextlib.suppress(OSError), socket.socket() as following:
            following.bind(("127.0.0.1", port + 1))
            return port
