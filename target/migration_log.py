"""Which chunks of a volume have moved: the journal of a migration, ``volumes/NAME.migration``.

A header, then a record for each chunk that has moved, in rising order.  A record counts once it is
on stable storage; the order of what happens around it: target/block/migration.py, rule 1.

    header  16 bytes  the id of the migration, as in the catalog
             4        CRC-32 of it
    record   8        the chunk's number, little endian
             4        CRC-32 of the id, the record's own offset and the number

Only the last record can be torn, and then it was never acted upon.  Any other that cannot be read
is damage, and the volume is not served.
"""

from __future__ import annotations

import asyncio
import os
import struct
import uuid as uuids
import zlib
from pathlib import Path
from typing import Final

from target.block.migration import JournalInDoubt
from target.datadir import DataDirError, write_atomically

ID_BYTES: Final = 16
_HEADER: Final = struct.Struct(f"<{ID_BYTES}sI")
_RECORD: Final = struct.Struct("<QI")


class MigrationLog:
    """An opened journal; ``moved`` is the number of chunks that are done with, from 0 on."""

    def __init__(self, path: Path, identity: uuids.UUID) -> None:
        """Raises DataDirError, for a file that is not there as well, and OSError."""
        self._path = path
        self._id = identity.bytes
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise DataDirError(
                f"{path} is missing, and with it which chunks of the volume have moved"
            ) from None
        try:
            self.moved = self._read()
        except BaseException:
            os.close(self._fd)
            raise

    @staticmethod
    def create(path: Path, identity: uuids.UUID) -> MigrationLog:
        """A journal without records, on stable storage.  Raises OSError."""
        write_atomically(path, _HEADER.pack(identity.bytes, zlib.crc32(identity.bytes)))
        return MigrationLog(path, identity)

    def _read(self) -> int:
        with open(self._fd, "rb", closefd=False) as stream:
            header = stream.read(_HEADER.size)
            if header != _HEADER.pack(self._id, zlib.crc32(self._id)):
                raise DataDirError(f"{self._path} is not the journal of this migration")
            self._end = _HEADER.size
            moved = 0
            while len(record := stream.read(_RECORD.size)) == _RECORD.size:
                chunk = int.from_bytes(record[:8], "little")
                if record != self._pack(chunk) or chunk < moved:
                    if stream.read(1):
                        raise DataDirError(f"{self._path} is damaged at byte {self._end}")
                    break
                self._end += _RECORD.size
                moved = chunk + 1
        os.ftruncate(self._fd, self._end)
        # What the last process may have left in the page cache is acted upon from now on.
        os.fsync(self._fd)
        return moved

    def _pack(self, chunk: int) -> bytes:
        number = chunk.to_bytes(8, "little")
        crc = zlib.crc32(self._id + self._end.to_bytes(8, "little") + number)
        return _RECORD.pack(chunk, crc)

    async def append(self, chunk: int) -> None:
        """Of ``migration.Journal``."""
        record = self._pack(chunk)
        try:
            await asyncio.to_thread(self._write, record)
        except OSError as exc:
            try:
                await self.revoke()
            except OSError:
                raise JournalInDoubt(f"{self._path}: {exc.strerror}") from exc
            raise OSError(exc.errno, f"{self._path}: {exc.strerror}") from exc
        self._end += len(record)
        self.moved = chunk + 1

    def _write(self, record: bytes) -> None:
        written = os.pwrite(self._fd, record, self._end)
        while written < len(record):
            written += os.pwrite(self._fd, record[written:], self._end + written)
        os.fdatasync(self._fd)

    async def revoke(self) -> None:
        """Of ``migration.Journal``."""
        await asyncio.to_thread(self._truncate)

    def _truncate(self) -> None:
        os.ftruncate(self._fd, self._end)
        os.fsync(self._fd)

    def close(self) -> None:
        """The file stays."""
        os.close(self._fd)

    def remove(self) -> None:
        """The migration has ended.  A file that is left over does no harm: it has its id."""
        self.close()
        self._path.unlink(missing_ok=True)
