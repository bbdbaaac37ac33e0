"""What gRPC is told by its environment: to be set before its first import."""

from __future__ import annotations

import os

# Errors are said in lines of ours; gRPC's own come without a place or a remedy.
# Its newer event engine hands each message from thread to thread: its older pollers answered a
# fifth sooner, with a fifth less CPU time (`make bench ARGS='--suite workers'`, 4 KiB at depth 1).
DEFAULTS = {
    "GRPC_VERBOSITY": "NONE",
    "GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener",
}


def prepare_grpc() -> None:
    """Set what the user has not set."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
