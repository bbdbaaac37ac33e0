"""Who a node is to its workers: an id that stays, an epoch that rises with every start.

Both are kept in ``node.json`` of the data directory, whose lock keeps a second process out.  The
epoch is on stable storage before it is used: no two lives of a node ever share one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from target.datadir import DataDirError, check_format, read_bounded, write_atomically

FORMAT: Final = 1
ID_BYTES: Final = 8
FILE_BYTES_MAX: Final = 1 << 20


class NodeIdentity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """This life of this node."""

    format: int = FORMAT
    id: str
    epoch: int
    number: int = 0  # among the other nodes, and of its target port; 0: it has never joined them
    # The other nodes when last heard of, and their epochs: of what a Redis that has forgotten them
    # would not say.
    peers: dict[str, int] = {}


def last_epoch(data_dir: Path, random_id: str) -> NodeIdentity:
    """The identity that the directory keeps; epoch 0 if it never started.  Raises DataDirError."""
    file = data_dir / "node.json"
    try:
        raw = read_bounded(file, FILE_BYTES_MAX)
        if raw is None:
            return NodeIdentity(id=random_id, epoch=0)
        check_format(file, raw, FORMAT)
        return msgspec.json.decode(raw, type=NodeIdentity)
    except OSError as exc:
        raise DataDirError(f"{file}: {exc.strerror}") from exc
    except (msgspec.DecodeError, msgspec.ValidationError) as exc:
        raise DataDirError(f"{file} cannot be read: {exc}") from exc


def keep_epoch(data_dir: Path, identity: NodeIdentity) -> None:
    """Put it on stable storage.  Raises DataDirError."""
    file = data_dir / "node.json"
    try:
        write_atomically(file, msgspec.json.format(msgspec.json.encode(identity)))
    except OSError as exc:
        raise DataDirError(f"{file}: {exc.strerror}") from exc


def begin_epoch(data_dir: Path, random_id: str) -> NodeIdentity:
    """The identity of a node that starts now; ``random_id`` is for one that never started before.

    Raises DataDirError.
    """
    last = last_epoch(data_dir, random_id)
    identity = msgspec.structs.replace(last, epoch=last.epoch + 1)
    keep_epoch(data_dir, identity)
    return identity
