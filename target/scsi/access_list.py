"""Which initiators may use which logical units: LUN masking.

Rules:

1. Without an entry everybody who logs in sees everything.  As soon as there is one, an initiator
   sees what its entries give, all of them together; one that has none may not log in.
2. An entry is of an initiator name or of a pattern (``*``, ``?``, ``[…]``), whatever its case
   (RFC 7143 4.2.7.1).  If it names a CHAP user, it is for those who have logged in as that one.
3. An entry gives volumes by name, ``rw`` or ``ro``; one that names none gives all, ``rw``.
4. An entry that names a target lets in to that one; else to those that its volumes are in, or to
   all if it names none.
5. Of a volume an entry may say at which LUN it is to be seen, instead of where its target has it.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Final, Literal, NamedTuple

import msgspec

from target.scsi.limits import LUNS_MAX

ENTRIES_MAX: Final = 1024
VOLUMES_MAX: Final = 1024  # of an entry
NAME_BYTES_MAX: Final = 223  # RFC 7143 4.2.7.1
USER_BYTES_MAX: Final = 255


class AccessEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an initiator may use (rules 2 to 5)."""

    initiator: str
    user: str = ""
    target: str = ""  # by its whole name
    volumes: dict[str, Literal["rw", "ro"]] = {}
    luns: dict[str, int] = {}  # of some of them

    @property
    def key(self) -> tuple[str, str, str]:
        """No two entries have the same."""
        return self.initiator, self.user, self.target

    def checked(self) -> AccessEntry:
        """As it is kept.  Raises ValueError."""
        name = self.initiator.strip().lower()
        if not 0 < len(name.encode()) <= NAME_BYTES_MAX or not name.isprintable() or " " in name:
            raise ValueError(f"bad initiator name or pattern {self.initiator[:80]!r}")
        if len(self.user.encode()) > USER_BYTES_MAX or not self.user.isprintable():
            raise ValueError(f"bad user {self.user[:80]!r}")
        if len(self.volumes) > VOLUMES_MAX:
            raise ValueError(f"an entry names at most {VOLUMES_MAX} volumes")
        for volume, number in self.luns.items():
            if volume not in self.volumes:
                raise ValueError(f"LUN {number} is for volume {volume!r}, which the entry has not")
            if not 0 <= number < LUNS_MAX:
                raise ValueError(f"LUN {number}: must be 0 to {LUNS_MAX - 1}")
        if len(set(self.luns.values())) != len(self.luns):
            raise ValueError("two volumes cannot be at the same LUN")
        target = self.target.strip().lower()
        if len(target.encode()) > NAME_BYTES_MAX or not target.isprintable() or " " in target:
            raise ValueError(f"bad target name {self.target[:80]!r}")
        return msgspec.structs.replace(self, initiator=name, target=target)


class Grant(NamedTuple):
    """A volume, as a nexus may use it; without a LUN it stands where its target has it."""

    may_write: bool
    lun: int | None = None


class Rights:
    """Of one I_T nexus; ``volumes`` None stands for all, to be read and written."""

    def __init__(self, volumes: dict[str, Grant] | None = None) -> None:
        self._volumes = volumes

    def grant(self, volume: str) -> Grant | None:
        """None: that volume is not there for this nexus."""
        return _ANYTHING if self._volumes is None else self._volumes.get(volume)


_ANYTHING: Final = Grant(may_write=True)
ALL: Final = Rights()


class AccessList:
    """Rule 1.  ``target_of`` names the target that a volume is in; without, there is one."""

    def __init__(
        self,
        entries: tuple[AccessEntry, ...] = (),
        target_of: Callable[[str], str] | None = None,
    ) -> None:
        self.entries = entries
        self._target_of = target_of

    def admits(self, initiator: str, target: str) -> bool:
        """Whether some entry may be for this initiator there, as whom it may log in ever."""
        return not self.entries or any(
            _is_for(entry, initiator) and self._lets_in(entry, target) for entry in self.entries
        )

    def rights(self, initiator: str, user: str | None, target: str) -> Rights | None:
        """What an initiator that has logged in as ``user`` may use there; None: nothing."""
        if not self.entries:
            return ALL
        volumes: dict[str, Grant] = {}
        found = False
        for entry in self.entries:
            if not (_is_for(entry, initiator) and entry.user in ("", user)):
                continue
            if not self._lets_in(entry, target):
                continue
            found = True
            if not entry.volumes:
                return ALL
            for volume, mode in entry.volumes.items():
                before = volumes.get(volume)
                may_write = mode == "rw" or (before is not None and before.may_write)
                lun = before.lun if before is not None else None
                volumes[volume] = Grant(may_write, entry.luns.get(volume) if lun is None else lun)
        return Rights(volumes) if found else None

    def _lets_in(self, entry: AccessEntry, target: str) -> bool:
        """Rule 4."""
        if entry.target:
            return entry.target == target
        target_of = self._target_of
        if target_of is None or not entry.volumes:
            return True
        return any(target_of(name) == target for name in entry.volumes)


def _is_for(entry: AccessEntry, initiator: str) -> bool:
    return fnmatchcase(initiator.lower(), entry.initiator)
