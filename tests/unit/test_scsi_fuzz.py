"""Any CDB with any expectation is answered once, and nothing is left behind."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from target.block.volume import Volume
from target.scsi.disk import DiskDevice
from target.scsi.request import SCSIRequest
from target.scsi.sense import INTERNAL_TARGET_FAILURE, SenseKey, Status
from tests.support.cdb import read10
from tests.support.scsi_disk import UUID, rig
from workers.memory_store import MemoryStore

COMMANDS = 3000  # for each seed and block size
SIZE = 1 << 20
READ = read10(0, 1)


def cdb_of(rng: random.Random, opcodes: list[bytes]) -> bytes:
    """A CDB that is noise, or like one of those that are known with a few bits of noise."""
    if rng.random() < 0.2:
        return rng.randbytes(16)
    cdb = bytearray(rng.choice(opcodes).ljust(16, b"\0"))
    for at in range(2, len(cdb)):
        cdb[at] &= rng.choice([0, 0, 0, 1, 3, 0xFF])
    if rng.random() < 0.3:
        cdb[rng.randrange(1, 16)] ^= 1 << rng.randrange(8)
    return bytes(cdb)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block_bytes", [512, 4096])
def test_every_command_is_answered_and_every_buffer_comes_back(seed: int, block_bytes: int) -> None:
    rng = random.Random(seed)
    with rig(stores=[MemoryStore(SIZE)], block_bytes=block_bytes) as it:
        opcodes = [command.usage for command in it.disk.table.all]
        initiators = [it.initiator(str(n), early_bytes_max=n) for n in (0, 1000, 16384)]
        answers = dict.fromkeys(Status, 0)
        for _ in range(COMMANDS):
            one = rng.choice(initiators)
            nbytes = rng.choice([0, 1, 8, 24, 511, 512, 1024, 4096, 8192, 70000])
            result = one.execute(
                cdb_of(rng, opcodes), rng.randbytes(nbytes), expected_in=rng.choice([0, 36, 70000])
            )
            answers[result.status] += 1
            assert it.segments_used == 0
            assert it.volume._ranges.idle
            if result.sense is not None:
                assert result.sense.key is not SenseKey.HARDWARE_ERROR, result
                assert len(result.sense_data) <= 252
        assert answers[Status.GOOD] > 50
        assert answers[Status.CHECK_CONDITION] > 50


def test_a_parser_that_fails_is_our_fault_and_ends_its_command_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with rig(stores=[MemoryStore(SIZE)]) as it:
        one = it.initiator()

        def parse(req: SCSIRequest) -> None:
            raise ZeroDivisionError

        broken = replace(it.disk.table.find(READ), parse=parse)
        monkeypatch.setitem(it.unit.commands, broken.opcode, broken)
        assert one.sense(READ) == INTERNAL_TARGET_FAILURE
        monkeypatch.undo()
        one.good(READ)


def test_a_disk_has_at_least_one_block() -> None:
    with pytest.raises(ValueError, match="smaller than one block"):
        DiskDevice(Volume("tiny", UUID, [MemoryStore(4095)], block_bytes=4096))
