"""An existing image or block device that is served as it is: what must be true of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from target.config.errors import ConfigError
from target.config.model import VolumeConfig


def image_bytes(volume: VolumeConfig) -> int:
    """The size of the volume's image.

    An image that ends in the middle of a block is refused: to serve only its whole blocks would
    hide its end from the initiator (a GPT keeps its backup there), to grow it would change a file
    that we were only asked to serve.
    """
    path = volume.path
    assert path is not None
    try:
        nbytes = _size_of(path)
        if not os.access(path, os.R_OK if volume.readonly else os.R_OK | os.W_OK):
            what = "read" if volume.readonly else "read and written (serve it readonly?)"
            raise ConfigError(f"volume {volume.name!r}: {path} may not be {what}")
    except OSError as exc:
        raise ConfigError(f"volume {volume.name!r}: {path}: {exc.strerror}") from exc
    block = volume.block_bytes
    if nbytes < block:
        raise ConfigError(
            f"volume {volume.name!r}: {path} has {nbytes} bytes, less than one block of {block}"
        )
    if nbytes % block:
        raise ConfigError(
            f"volume {volume.name!r}: {path} has {nbytes} bytes, no multiple of its {block}-byte "
            f"blocks; enlarge it with truncate -s {-(-nbytes // block) * block}"
        )
    return nbytes


def _size_of(path: Path) -> int:
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        return path.stat().st_size
    if stat.S_ISBLK(mode):
        with path.open("rb") as device:
            return device.seek(0, os.SEEK_END)
    raise ConfigError(f"{path} is neither a file nor a block device")
