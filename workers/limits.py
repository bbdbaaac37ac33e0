"""The bounds of the wire between a target node and a worker: lunmesh.worker.v2, rule 6.

Both sides keep to them and both sides check them.  Imports nothing.
"""

from __future__ import annotations

from typing import Final

# --- of one message ------------------------------------------------------------------------------
PAYLOAD_BYTES_MAX: Final = 4 << 20  # payload of a message
MESSAGE_IOS_MAX: Final = 1024  # I/Os, and cancellations, of a message
MESSAGE_BYTES_MAX: Final = PAYLOAD_BYTES_MAX + (256 << 10)  # with its arrays; gRPC's own limit

# --- of one I/O ----------------------------------------------------------------------------------
IO_BYTES_MAX: Final = 1 << 20  # READ and WRITE; COMPARE_AND_WRITE carries twice its length
RANGE_BYTES_MAX: Final = 1 << 30  # ZERO, UNMAP and BLOCK_STATUS, which carry no data of the range
EXTENTS_MAX: Final = 256  # runs in an answer to BLOCK_STATUS
EXTENT_BYTES: Final = 9  # of one run: its length (uint64 LE), mapped (uint8)

# --- of one stream -------------------------------------------------------------------------------
STREAM_IOS_MAX: Final = 4096  # I/Os of a stream that are not yet answered
CREDIT_BYTES_MIN: Final = 2 << 20  # what a stream can always get: one COMPARE_AND_WRITE of 1 MiB

# --- of a grant to read (workers/grants.py) ------------------------------------------------------
TOKEN_BYTES: Final = 16

# --- of the memory that a worker lends (workers/lent.py) ------------------------------------------
LENT_BYTES: Final = 4 << 20  # to each stream, out of its credit
LENT_PAYLOAD_BYTES_MIN: Final = 16 << 10  # less is cheaper to send in the message


# --- of the socket beside a stream (workers/message_socket.py) ------------------------------------
# Payload of a message past gRPC, if it has more than one I/O: its sender packs the next meanwhile.
SOCKET_PAYLOAD_BYTES: Final = 128 << 10
LENGTH_BYTES: Final = 4  # of the length before each message, little endian


def sendable(detail: str) -> str:
    """A text for people as a message may have it: a path need not be UTF-8, nor short."""
    return detail[:DETAIL_CHARS_MAX].encode(errors="replace").decode()


def grant_path(path: str) -> str:
    """The socket on which the worker with the Unix socket ``path`` gives descriptors."""
    return f"{path}.fd"


# --- of names ------------------------------------------------------------------------------------
NODE_CHARS_MAX: Final = 128
DETAIL_CHARS_MAX: Final = 512
LIST_MAX: Final = 1000  # volumes of one page of ListVolumes
SIZE_BYTES_MAX: Final = 1 << 60  # of a volume
