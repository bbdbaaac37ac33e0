"""``python -m target.cli.node_process FD NAME``: one of ``lunmesh serve --processes N``.

Its configuration comes from standard input, its connections through the descriptor FD.  NAME is
for whoever looks at the list of processes.
"""

from __future__ import annotations

import socket
import sys

from target.cli.run import guarded
from target.cli.serve import run_serve
from target.processes.child import decode_config


def _serve() -> int:
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    run_serve(decode_config(sys.stdin.buffer.read()), channel)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(_serve, ()))
