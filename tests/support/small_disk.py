"""File systems of a few MiB that a test can fill or break; only root may mount them."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

_PIECE_BYTES = 1 << 16


class CannotMount(Exception):
    """This process may not mount; the message has mount's words."""


class SmallDisk:
    """A tmpfs at ``folder``; as a context, mounted."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        self._size_bytes = size_bytes
        self._filler = folder / "filler"

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        options = f"size={self._size_bytes},mode=700"
        _run("mount", "-t", "tmpfs", "-o", options, "lunmesh-test", str(self.folder))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Whoever used it has ended by now."""
        subprocess.run(["umount", str(self.folder)], check=True, timeout=30)

    def fill(self) -> None:
        """Take all space that is left."""
        with self._filler.open("ab", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(_PIECE_BYTES))
                except OSError as exc:
                    if exc.errno != errno.ENOSPC:
                        raise
                    return

    def empty(self) -> None:
        """Give it back."""
        if self._filler.exists():
            os.unlink(self._filler)


class LosingDisk:
    """An ext4 that takes writes and then finds no place for them: fsync fails, once, with ENOSPC.

    Its image is sparse, on a tmpfs that has less room; ``lose`` takes what is left there.
    """

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        self._size_bytes = size_bytes
        self._below = SmallDisk(folder.with_suffix(".below"), size_bytes // 2)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._below.__enter__()
        image = self._below.folder / "image"
        try:
            with image.open("wb") as file:
                file.truncate(self._size_bytes)
            _run("mkfs.ext4", "-q", "-O", "^has_journal", str(image))
            _run("mount", "-o", "loop", str(image), str(self.folder))
        except CannotMount:
            self._below.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        subprocess.run(["umount", str(self.folder)], check=True, timeout=30)
        self._below.__exit__(kind, exc, tb)

    def lose(self) -> None:
        """From now on there is no place for anything that is not there yet."""
        self._below.fill()


class FailingDisk:
    """An ext4 on a loop device that finds itself damaged on demand, and then takes no writes."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        self._image = folder.with_suffix(".img")
        self._size_bytes = size_bytes

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._image.open("wb") as file:
            file.truncate(self._size_bytes)
        _run("mkfs.ext4", "-q", str(self._image))
        _run("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.folder))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        subprocess.run(["umount", str(self.folder)], check=True, timeout=30)

    def remount(self, mode: str) -> None:
        """``ro`` or ``rw``."""
        _run("mount", "-o", f"remount,{mode}", str(self.folder))

    def fail(self) -> None:
        """From now on the file system is read-only, as after an error of its disk."""
        device = _run("findmnt", "-n", "-o", "SOURCE", str(self.folder)).strip()
        trigger = Path("/sys/fs/ext4") / Path(device).name / "trigger_fs_error"
        trigger.write_text("lunmesh test")


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except FileNotFoundError as exc:
        raise CannotMount(f"there is no {command[0]} command") from exc
    if done.returncode:
        raise CannotMount(done.stderr.strip())
    return done.stdout
