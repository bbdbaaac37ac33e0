"""What a node tells whoever started it, once it accepts connections."""

from __future__ import annotations

from dataclasses import dataclass

from target.config.model import Portal


@dataclass(frozen=True, slots=True)
class ReadyLun:
    """A LUN as an initiator will find it."""

    lun: str  # and, behind an @, the target that has it, if that is another
    name: str
    size_bytes: int
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class ReadyInfo:
    """The target's name, where it listens (real ports, where port 0 was asked for), its LUNs."""

    iqn: str
    portals: tuple[Portal, ...]
    luns: tuple[ReadyLun, ...]
