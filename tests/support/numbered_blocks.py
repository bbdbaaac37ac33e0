"""Blocks that say which they are: written through one node, read through another."""

from __future__ import annotations

import struct

from tests.support import cdb
from tests.support.incrementers import until_good
from tests.support.lunmesh_server import LunmeshServer

FIRST_LBA = 4096
BLOCKS = 64
BLOCK_BYTES = 512


def _numbers() -> bytes:
    lbas = range(FIRST_LBA, FIRST_LBA + BLOCKS)
    return b"".join(struct.pack(">Q", lba) * (BLOCK_BYTES // 8) for lba in lbas)


def keep_numbers(node: LunmeshServer) -> None:
    """Returns when they are acknowledged."""
    until_good(node, cdb.write10(FIRST_LBA, BLOCKS), data_out=_numbers())


def check_numbers(node: LunmeshServer) -> None:
    """They are there."""
    found = until_good(node, cdb.read10(FIRST_LBA, BLOCKS), read_length=BLOCKS * BLOCK_BYTES)
    assert found == _numbers()
