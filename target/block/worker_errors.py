"""What can be wrong with a worker, as seen from a node.  Nothing here knows gRPC."""

from __future__ import annotations


class WorkerGone(Exception):
    """The worker cannot be reached, or has ended the stream; the text says why."""


class NodeFenced(Exception):
    """The worker refuses this epoch of this node."""


class NoSuchShare(Exception):
    """The worker does not know the volume."""


class ShareRefused(Exception):
    """The worker cannot serve the volume, whatever the connection does."""
