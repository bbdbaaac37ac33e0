"""A writer of the "newc" cpio format, the one the kernel unpacks as its first root file system.

Written here rather than by the cpio program because an archive needs device nodes and root
ownership, which a program that copies a folder can only give to root.
"""

import stat
from types import TracebackType
from typing import BinaryIO, Self

_TRAILER = "TRAILER!!!"


class CpioWriter:
    """Entries are written as they are added; parents must be added before their children."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._next_inode = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is None:
            self._entry(_TRAILER, 0, b"")

    def folder(self, name: str) -> None:
        self._entry(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, content: bytes, *, executable: bool = False) -> None:
        self._entry(name, stat.S_IFREG | (0o755 if executable else 0o644), content)

    def symlink(self, name: str, target: str) -> None:
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name: str, major: int, minor: int) -> None:
        self._entry(name, stat.S_IFCHR | 0o600, b"", (major, minor))

    def _entry(
        self, name: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)
    ) -> None:
        path = name.encode() + b"\0"
        fields = (
            self._next_inode,
            mode,
            *(0, 0),  # owner, group
            1,  # links
            0,  # modification time: none, so that equal input makes an equal archive
            len(content),
            *(0, 0),  # the device that holds the file
            *device,
            len(path),
            0,  # checksum, unused in this variant
        )
        self._next_inode += 1
        self._write(b"070701" + b"".join(b"%08X" % field for field in fields) + path)
        self._write(content)

    def _write(self, data: bytes) -> None:
        self._out.write(data + bytes(-len(data) % 4))
