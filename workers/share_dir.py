"""Shares of volumes in a directory, each a sparse raw file.

    DIR/
      lock                      held while a worker uses the directory
      fences.json               the epochs that are refused (workers/fences.py)
      fences.json.new           room for the next ones (workers/kept_file.py)
      volumes/NAME/share.json   what the volume is; without it there is no such volume
      volumes/NAME/UUID.raw     its bytes, chunk n at n * chunk size
      volumes/NAME/UUID.sync    whether a flush of it has failed (workers/sync_mark.py)
      volumes/NAME/UUID.gone    it is being deleted: its share.json until then

Rules:

1. share.json is written last when a volume is created, and gets the name UUID.gone first when it is
   deleted: a worker that starts and finds that ends the deletion.
2. Nothing that has bytes in it is written over: a raw file without a share.json is taken for the
   leftover of a crash only while it is all hole.
3. What cannot be read stays as it is, and is said.
4. What a crash or a full disk has left of a volume that was being made, and has no bytes, goes:
   with the attempt that failed, with the deletion of the volume, or at the next start.
5. On a file system that is read-only, what is there is served for reading.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import re
from pathlib import Path
from typing import Final

import aiofiles.os
import msgspec
import structlog

from workers.executor import BlockingExecutor
from workers.file_store import FileStore, create_sparse
from workers.format import format_of
from workers.kept_file import KeptFile
from workers.metadata import read_bounded, sync_directory, write_atomically
from workers.shares import Share, ShareError, ShareFault, ShareInfo, Shares, Wrap
from workers.store import VolumeStore
from workers.sync_mark import NEVER, ErrorRecord, SyncMark

log = structlog.get_logger()

FORMAT: Final = 1
_PID_CHARS: Final = 32
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
METADATA_BYTES_MAX: Final = 64 << 10
_RAW: Final = re.compile(r"[0-9a-f]{32}\.raw")
_MARK: Final = re.compile(r"[0-9a-f]{32}\.sync")
_GONE: Final = re.compile(r"([0-9a-f]{32})\.gone")
_NEW_METADATA: Final = "share.json.new"  # write_atomically
FENCES_BYTES_MAX: Final = 64 << 20


class ShareDirError(Exception):
    """The directory cannot be used; the text says why, in one line."""


class _Metadata(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """share.json"""

    format: int = FORMAT
    name: str
    uuid: str  # 32 hexadecimal digits
    size_bytes: int
    chunk_bytes: int
    block_bytes: int
    place: str = ""  # none in what was made before there were any


class ShareDir(Shares):
    """``--store file:DIR``: an opened, locked directory."""

    kind = "file"

    def __init__(
        self, path: Path, executor: BlockingExecutor, wrap: Wrap = lambda name, store: store
    ) -> None:
        super().__init__(wrap)
        self.path = path
        self._volumes = path / "volumes"
        self._fences = KeptFile(path / "fences.json")
        self._executor = executor
        # Page cache that was not flushed survives the process, not the machine.
        self.volatile_id = BOOT_ID.read_text().strip()
        try:
            self._volumes.mkdir(parents=True, exist_ok=True)
            self._lock_fd = _open_lock(path / "lock")
        except OSError as exc:
            raise ShareDirError(f"store directory {path}: {exc.strerror}") from exc
        try:
            self._take_lock()
        except (OSError, ShareDirError) as exc:
            os.close(self._lock_fd)
            if isinstance(exc, OSError):
                raise ShareDirError(f"store directory {path}: {exc.strerror}") from exc
            raise
        self._errors = ErrorRecord(self._lock_fd)

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            owner = os.pread(self._lock_fd, _PID_CHARS, 0).decode("ascii", "replace").strip()
            if not re.fullmatch(r"\d+", owner) or _is_read_only(self._lock_fd):
                owner = "unknown"  # on a read-only file system it could not say
            raise ShareDirError(
                f"store directory {self.path} is in use by process {owner}"
            ) from exc
        with contextlib.suppress(OSError):  # full, or rule 5: it is for people
            os.pwrite(self._lock_fd, f"{os.getpid()}\n".ljust(_PID_CHARS).encode(), 0)

    # --- what is there ----------------------------------------------------------------------------

    async def load(self) -> list[str]:
        warnings = []
        for name in sorted(await aiofiles.os.listdir(self._volumes)):
            folder = self._volumes / name
            try:
                data = await read_bounded(folder / "share.json", METADATA_BYTES_MAX)
                info = _info(data, name)
                self._add(Share(info))
                (await self._mark(info)).close()  # all before any is served: ErrorRecord
            except FileNotFoundError:
                if not await self._clear(folder):
                    warnings.append(f"{folder} has no share.json: not a volume, left as it is")
            except OSError as exc:
                warnings.append(f"{folder}: {exc.strerror}")
            except (ValueError, ShareError) as exc:  # msgspec's are ValueErrors
                warnings.append(f"{folder / 'share.json'}: {exc}")
        return warnings

    def _add(self, share: Share) -> None:
        if share.info.uuid in self._by_uuid:
            other = self._by_uuid[share.info.uuid].info.name
            raise ValueError(f"has the UUID of volume {other}")
        super()._add(share)

    # --- one share --------------------------------------------------------------------------------

    def _raw(self, info: ShareInfo) -> Path:
        return self._volumes / info.name / f"{info.uuid.hex()}.raw"

    def _mark_path(self, info: ShareInfo) -> Path:
        return self._volumes / info.name / f"{info.uuid.hex()}.sync"

    async def _mark(self, info: ShareInfo) -> SyncMark:
        return await asyncio.to_thread(SyncMark, self._mark_path(info), self._errors)

    def _metadata(self, info: ShareInfo) -> Path:
        return self._volumes / info.name / "share.json"

    async def _create(self, info: ShareInfo) -> None:
        folder = self._volumes / info.name
        await aiofiles.os.makedirs(folder, exist_ok=True)
        if await aiofiles.os.path.exists(self._metadata(info)):
            await self._take_twin(info)
            return
        await self._remove_leftover(self._raw(info))
        try:
            await asyncio.to_thread(create_sparse, self._raw(info), info.size)
            (await self._mark(info)).close()
            await sync_directory(self._volumes)
            await self._write_metadata(info)
        except OSError:
            await self._clear(folder)
            raise

    async def _take_twin(self, info: ShareInfo) -> None:
        """An attempt that failed after its last step has made this very share."""
        metadata = self._metadata(info)
        try:
            same = _info(await read_bounded(metadata, METADATA_BYTES_MAX), info.name) == info
        except (ValueError, ShareError):  # msgspec's are ValueErrors
            same = False
        if not same:
            raise ShareError(ShareFault.EXISTS, f"{metadata} is there, but cannot be used")
        await sync_directory(metadata.parent)
        await sync_directory(self._volumes)

    async def _clear(self, folder: Path) -> bool:
        """Rules 1 and 4; whether nothing is left."""
        if await aiofiles.os.path.exists(folder / "share.json"):
            return False
        with contextlib.suppress(OSError):
            await self._end_deletions(folder)
            for name in await aiofiles.os.listdir(folder):
                file = folder / name
                hole = _RAW.fullmatch(name) and not (await aiofiles.os.stat(file)).st_blocks
                if hole or name == _NEW_METADATA or _MARK.fullmatch(name):
                    await aiofiles.os.remove(file)
            await aiofiles.os.rmdir(folder)
            return True
        return False

    @staticmethod
    async def _remove_leftover(raw: Path) -> None:
        """Rule 2."""
        try:
            found = await aiofiles.os.stat(raw)
        except FileNotFoundError:
            return
        if found.st_blocks:
            raise ShareError(
                ShareFault.EXISTS, f"{raw} is there without a share.json; move it away"
            )
        await aiofiles.os.remove(raw)

    async def _write_metadata(self, info: ShareInfo) -> None:
        metadata = _Metadata(
            name=info.name,
            uuid=info.uuid.hex(),
            size_bytes=info.size,
            chunk_bytes=info.chunk_bytes,
            block_bytes=info.block_bytes,
            place=info.place,
        )
        data = msgspec.json.format(msgspec.json.encode(metadata))
        await write_atomically(self._metadata(info), data)

    async def _resize(self, old: ShareInfo, new: ShareInfo, store: VolumeStore | None) -> None:
        """The file first: a file that is longer than its share.json says is no harm."""
        await asyncio.to_thread(_extend, self._raw(old), new.size)
        await self._write_metadata(new)

    async def _delete(self, info: ShareInfo) -> None:
        folder = self._volumes / info.name
        with contextlib.suppress(FileNotFoundError):  # an earlier attempt came this far
            await aiofiles.os.replace(self._metadata(info), folder / f"{info.uuid.hex()}.gone")
            await sync_directory(folder)
        with contextlib.suppress(FileNotFoundError):
            await self._end_deletions(folder)
        try:
            await aiofiles.os.rmdir(folder)
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.ENOENT):  # somebody else's files, or gone
                raise
        await sync_directory(self._volumes)

    @staticmethod
    async def _end_deletions(folder: Path) -> None:
        """Rule 1; raises OSError."""
        for gone in filter(None, map(_GONE.fullmatch, await aiofiles.os.listdir(folder))):
            uuid = gone[1]
            for name in (f"{uuid}.raw", f"{uuid}.sync", _NEW_METADATA, f"{uuid}.gone"):
                with contextlib.suppress(FileNotFoundError):
                    await aiofiles.os.remove(folder / name)
                    await sync_directory(folder)

    async def _open(self, share: Share) -> VolumeStore:
        info = share.info
        # The metadata as it is now, not as it was when the worker started: somebody may have
        # restored a backup over a running worker.
        metadata = self._metadata(info)
        try:
            found = _info(await read_bounded(metadata, METADATA_BYTES_MAX), info.name)
        except ValueError as exc:
            raise ShareError(ShareFault.UNUSABLE, f"{metadata}: {exc}") from exc
        if found != info:
            raise ShareError(
                ShareFault.UNUSABLE, f"{metadata} has changed behind the worker's back"
            )
        share.mark = mark = await self._mark(info)
        try:
            return self._file_store(info, mark)
        except OSError:
            mark.close()
            raise

    def _file_store(self, info: ShareInfo, mark: SyncMark) -> FileStore:
        raw = self._raw(info)
        try:
            return FileStore(raw, self._executor, size=info.size, mark=mark)
        except OSError as exc:
            if exc.errno != errno.EROFS:
                raise
            log.warning("read-only", volume=info.name, file=str(raw))  # rule 5
            return FileStore(raw, self._executor, size=info.size, mark=mark, read_only=True)

    def volatile_id_of(self, share: Share) -> str:
        lost = share.mark.lost if share.mark is not None else NEVER
        return self.volatile_id if lost == NEVER else f"{self.volatile_id}/{lost}"

    # --- fences -----------------------------------------------------------------------------------

    async def load_fences(self) -> bytes | None:
        try:
            return await read_bounded(self._fences.path, FENCES_BYTES_MAX)
        except FileNotFoundError:
            return None

    async def save_fences(self, data: bytes) -> None:
        await asyncio.to_thread(self._fences.replace, data)

    def close(self) -> None:
        super().close()
        os.close(self._lock_fd)


def _info(data: bytes, name: str) -> ShareInfo:
    """share.json of the folder ``name``; raises ValueError or ShareError."""
    if (version := format_of(data)) != FORMAT:
        raise ValueError(f"has format {version}, this version knows {FORMAT}")
    found = msgspec.json.decode(data, type=_Metadata)
    info = ShareInfo(
        found.name,
        bytes.fromhex(found.uuid),
        found.size_bytes,
        found.chunk_bytes,
        found.block_bytes,
        found.place,
    )
    info.check()
    if info.name != name:
        raise ValueError(f"is of volume {info.name}")
    return info


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        if exc.errno != errno.EROFS or not path.exists():
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # it can be locked all the same


def _is_read_only(fd: int) -> bool:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY


def _extend(raw: Path, size: int) -> None:
    fd = os.open(raw, os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_size < size:
            os.ftruncate(fd, size)
        os.fsync(fd)
    finally:
        os.close(fd)
