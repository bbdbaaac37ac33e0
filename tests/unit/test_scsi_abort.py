"""A command can be aborted at any moment of its life, and leaves nothing behind.

Each command is run over and over, aborted one step later each time, until it ends by itself.  A
step is a turn of the event loop and, in it, the end of one store I/O.  Once with all the buffers it
wants and once with a few, so that it has to wait for them in every window.
"""

from __future__ import annotations

import asyncio

import pytest

from target.hba.inprocess import CommandAborted
from target.scsi.limits import WINDOW_BYTES
from target.scsi.sense import Status
from tests.support.cdb import compare_and_write, read16, unmap, write16, write_same16
from tests.support.scsi_disk import TEST_UNIT_READY, Initiator, Rig, rig
from tests.support.stores import HeldStore
from workers.memory_store import MemoryStore

SIZE = 8 << 20
NBYTES = 2 * WINDOW_BYTES + 4096
BLOCKS = NBYTES // 512
STEPS_MAX = 400
FEW = 7  # segments: as many as the COMPARE AND WRITE below, which cannot be split
FUA = 0x08

UNMAP_LIST = bytes.fromhex("0026 0020 00000000") + b"".join(
    lba.to_bytes(8) + blocks.to_bytes(4) + bytes(4) for lba, blocks in ((0, 8), (64, 100))
)
COMMANDS: dict[str, tuple[bytes, bytes]] = {
    "read": (read16(0, BLOCKS), b""),
    "read with FUA": (read16(0, 8, FUA), b""),
    "write": (write16(0, BLOCKS), bytes(NBYTES)),
    "write with FUA": (write16(0, BLOCKS, FUA), bytes(NBYTES)),
    "verify": (bytes([0x8F, 0]) + read16(0, BLOCKS)[2:], b""),
    "verify, compare": (bytes([0x8F, 2]) + read16(0, BLOCKS)[2:], bytes(NBYTES)),
    "verify, compare one": (bytes([0x8F, 6]) + read16(0, BLOCKS)[2:], bytes(512)),
    "write and verify": (bytes([0x8E, 2]) + read16(0, BLOCKS)[2:], bytes(NBYTES)),
    "compare and write": (compare_and_write(0, 100), bytes(200 * 512)),
    "write same": (write_same16(0, BLOCKS), b"x" * 512),
    "write same of zeros": (write_same16(0, BLOCKS, 0x08), bytes(512)),
    "unmap": (unmap(len(UNMAP_LIST)), UNMAP_LIST),
    "synchronize cache": (b"\x91" + bytes(15), b""),
    "prefetch": (b"\x90" + bytes(15), b""),
    "get lba status": (bytes.fromhex("9e12 0000000000000000 00001000 0000"), b""),
    "mode select": (
        bytes.fromhex("55 10 00 00 00 00 00 001c 00"),
        bytes(8) + bytes.fromhex("0812" + "00" * 18),
    ),
    "start stop unit": (bytes.fromhex("1b 00 00 00 00 00"), b""),
    "send diagnostic": (bytes.fromhex("1d 04 00 00 00 00"), b""),
}


async def run(it: Rig, one: Initiator, store: HeldStore, name: str, steps: int) -> Status | None:
    """The status of a command, or None if it was aborted after so many steps."""
    cdb, data = COMMANDS[name]
    task = asyncio.create_task(one.hba.execute(cdb, data, expected_in=NBYTES))
    for step in range(STEPS_MAX):
        await asyncio.sleep(0)
        if step == steps:
            one.hba.abort()
        if task.done():
            break
        if store.held:
            store.release()
    try:
        return (await asyncio.wait_for(task, 5)).status
    except CommandAborted:
        return None


@pytest.mark.parametrize("scarce", [False, True], ids=["plenty", "scarce"])
@pytest.mark.parametrize("early", [0, 1000, 16384])
@pytest.mark.parametrize("name", COMMANDS)
def test_abort_at_every_step(name: str, early: int, scarce: bool) -> None:
    store = HeldStore(MemoryStore(SIZE))
    with rig(stores=[store]) as it:
        one = it.initiator(early_bytes_max=early)
        share = one.hba.share
        kept = share.take(share.limit - FEW) if scarce else None
        for steps in range(STEPS_MAX):
            status = it.run(run(it, one, store, name, steps))
            assert share.held == (len(kept) if kept else 0)
            assert share.reserved_out == 0
            assert it.volume._ranges.idle
            assert not store.held
            it.unit.settings.reset(lambda failure: None)
            if status is not None:
                break
        assert status in (Status.GOOD, Status.CONDITION_MET)
        if kept:
            share.give(kept)
        one.good(TEST_UNIT_READY)
