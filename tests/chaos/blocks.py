"""Blocks that say who they are: number, version and a checksum of both, over the whole block.

A block of 512 bytes is sixteen equal records, so that one that was torn, or lies where another
belongs, is told from any that was ever written.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

from tests.chaos.history import GARBAGE, NEVER_WRITTEN

BLOCK_BYTES = 512
_MAGIC = b"lunmesh!"
_RECORD = struct.Struct("<8sQQII")  # magic, block, version, CRC-32 of these, zeros
_COPIES = BLOCK_BYTES // _RECORD.size
_ZEROS = bytes(BLOCK_BYTES)


def _record(block: int, version: int) -> bytes:
    crc = zlib.crc32(struct.pack("<QQ", block, version))
    return _RECORD.pack(_MAGIC, block, version, crc, 0)


def pack(versions: Mapping[int, int]) -> bytes:
    """The bytes of these blocks, by number, one behind the other."""
    return b"".join(
        _ZEROS if version == NEVER_WRITTEN else _record(block, version) * _COPIES
        for block, version in versions.items()
    )


def version_of(block: int, data: bytes) -> int:
    """The version in a block's bytes; GARBAGE if nobody wrote these bytes to this block."""
    if data == _ZEROS:
        return NEVER_WRITTEN
    _, _, version, _, _ = _RECORD.unpack_from(data)
    return version if data == _record(block, version) * _COPIES else GARBAGE


def versions_of(first: int, data: bytes) -> dict[int, int]:
    """The versions of the blocks from ``first`` on."""
    return {
        first + at // BLOCK_BYTES: version_of(
            first + at // BLOCK_BYTES, data[at : at + BLOCK_BYTES]
        )
        for at in range(0, len(data), BLOCK_BYTES)
    }
