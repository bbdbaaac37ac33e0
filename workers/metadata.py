"""Small files that must be whole after a crash: read with a bound, replaced atomically.

A file is written anew beside the old one, synced, renamed over it, and its directory synced: a
crash leaves the old file or the new one, and once the call has returned it leaves the new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import aiofiles
import aiofiles.os


async def write_atomically(path: Path, data: bytes) -> None:
    """Raises OSError; then the old file is as it was."""
    new = path.with_name(path.name + ".new")
    try:
        async with aiofiles.open(new, "wb") as stream:
            await stream.write(data)
            await stream.flush()
            await asyncio.to_thread(os.fsync, stream.fileno())
        await aiofiles.os.replace(new, path)
    except OSError:  # a full disk has other uses for what has been written
        with contextlib.suppress(OSError):
            await aiofiles.os.unlink(new)
        raise
    await sync_directory(path.parent)


async def read_bounded(path: Path, bytes_max: int) -> bytes:
    """The file; raises OSError, and ValueError if it is longer than ``bytes_max``."""
    async with aiofiles.open(path, "rb") as stream:
        data = await stream.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise ValueError(f"longer than {bytes_max} bytes")
    return data


async def sync_directory(path: Path) -> None:
    """Make what was created, renamed or removed in ``path`` survive a crash."""
    await asyncio.to_thread(_sync_directory, path)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
