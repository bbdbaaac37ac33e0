"""A disk on a memory store behind in-process HBAs: SCSI commands as plain function calls."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from target.block.pool import SEGMENT_BYTES, BufferPool
from target.block.volume import Volume
from target.hba.inprocess import InProcessHba, Result
from target.scsi.bus import SCSIBus
from target.scsi.disk import DiskDevice
from target.scsi.sense import FieldPointer, Sense, SenseKey, Status
from workers.memory_store import MemoryStore
from workers.store import VolumeStore

TEST_UNIT_READY = bytes(6)
T = TypeVar("T")
UUID = uuid.UUID("7e2b4f0b-17f2-41e7-b0dd-e25a8414c3e8")


class Initiator:
    """An I_T nexus on a bus."""

    def __init__(
        self,
        runner: asyncio.Runner,
        bus: SCSIBus,
        pool: BufferPool,
        name: str,
        early_bytes_max: int = SEGMENT_BYTES,
    ) -> None:
        self._runner = runner
        self.hba = InProcessHba(bus, pool, name=name, early_bytes_max=early_bytes_max)

    def execute(
        self,
        cdb: bytes,
        data_out: bytes = b"",
        expected_in: int = 65536,
        *,
        expected_out: int | None = None,
        lun: bytes | None = None,
    ) -> Result:
        """Run a command, whatever becomes of it."""
        return self._runner.run(
            self.hba.execute(cdb, data_out, expected_in, expected_out=expected_out, lun=lun)
        )

    def good(self, cdb: bytes, data_out: bytes = b"", expected_in: int = 65536) -> bytes:
        """Run a command that has to end well; its data-in."""
        result = self.execute(cdb, data_out, expected_in)
        assert (result.status, result.sense) == (Status.GOOD, None)
        return result.data

    def sense(self, cdb: bytes, data_out: bytes = b"") -> Sense:
        """Run a command that has to end in CHECK CONDITION."""
        result = self.execute(cdb, data_out)
        assert result.status is Status.CHECK_CONDITION
        assert result.sense is not None
        assert result.data == b""
        return result.sense

    def settle(self) -> None:
        """Take the unit attentions that are pending."""
        while self.execute(TEST_UNIT_READY).status is not Status.GOOD:
            pass


class Rig:
    """A bus with one disk at LUN 0 and any number of initiators."""

    def __init__(self, runner: asyncio.Runner, volume: Volume) -> None:
        self._runner = runner
        self._pool = BufferPool(16 << 20)
        self._initiators: list[Initiator] = []
        self.volume = volume
        self.disk = DiskDevice(volume)
        self.bus = SCSIBus()
        self.unit = self.bus.add(0, self.disk)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run what needs the event loop."""
        return self._runner.run(coroutine)

    def initiator(
        self, name: str = "first", *, settled: bool = True, early_bytes_max: int = SEGMENT_BYTES
    ) -> Initiator:
        """A new nexus, with its unit attentions taken unless they are what the test is about.

        ``early_bytes_max`` bytes of data-out come with a command, the rest is solicited.
        """
        initiator = Initiator(self._runner, self.bus, self._pool, name, early_bytes_max)
        self._initiators.append(initiator)
        if settled:
            initiator.settle()
        return initiator

    @property
    def segments_used(self) -> int:
        """Segments of the buffer pool that are out."""
        return self._pool.used

    def close(self) -> None:
        """Hang up, and see that no buffer was lost."""
        for initiator in self._initiators:
            initiator.hba.close()
        assert self._pool.used == 0


@contextlib.contextmanager
def rig(
    size: int = 1 << 20,
    *,
    block_bytes: int = 512,
    read_only: bool = False,
    write_cache: bool = True,
    stores: Sequence[VolumeStore] | None = None,
) -> Iterator[Rig]:
    """A disk of ``size`` bytes for as long as the context lasts."""
    volume = Volume(
        "disk0",
        UUID,
        stores if stores is not None else [MemoryStore(size)],
        block_bytes=block_bytes,
        read_only=read_only,
        write_cache=write_cache,
    )
    with asyncio.Runner() as runner:
        it = Rig(runner, volume)
        yield it
        it.close()


def triple(sense: Sense) -> tuple[SenseKey, int, int]:
    """Key, additional sense code, qualifier."""
    return sense.key, sense.asc, sense.ascq


def invalid_cdb(byte: int, bit: int | None = None) -> Sense:
    """INVALID FIELD IN CDB at a byte and bit."""
    return Sense(SenseKey.ILLEGAL_REQUEST, 0x24, 0x00, pointer=FieldPointer(byte, bit))


def invalid_parameter(byte: int, bit: int | None = None) -> Sense:
    """INVALID FIELD IN PARAMETER LIST at a byte and bit."""
    return Sense(SenseKey.ILLEGAL_REQUEST, 0x26, 0x00, pointer=FieldPointer(byte, bit, False))
