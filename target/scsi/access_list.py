"""Which initiators may use which logical units: LUN masking.

Rules:

1. Without an entry everybody who logs in sees everything.  As soon as there is one, an initiator
   sees what its entries give, all of them together; one that has none may not log in.
2. An entry is of an initiator name or of a pattern (``*``, ``?``, ``[…]``), whatever its case
   (RFC 7143 4.2.7.1).  If it names a CHAP user, it is for those who have logged in as that one.
3. An entry gives volumes by name, ``rw`` or ``ro``; one that names none gives all, ``rw``.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final, Literal

import msgspec

ENTRIES_MAX: Final = 1024
VOLUMES_MAX: Final = 1024  # of an entry
NAME_BYTES_MAX: Final = 223  # RFC 7143 4.2.7.1
USER_BYTES_MAX: Final = 255


class AccessEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an initiator may use (rules 2 and 3)."""

    initiator: str
    user: str = ""
    volumes: dict[str, Literal["rw", "ro"]] = {}

    @property
    def key(self) -> tuple[str, str]:
        """No two entries have the same."""
        return self.initiator, self.user

    def checked(self) -> AccessEntry:
        """As it is kept.  Raises ValueError."""
        name = self.initiator.strip().lower()
        if not 0 < len(name.encode()) <= NAME_BYTES_MAX or not name.isprintable() or " " in name:
            raise ValueError(f"bad initiator name or pattern {self.initiator[:80]!r}")
        if len(self.user.encode()) > USER_BYTES_MAX or not self.user.isprintable():
            raise ValueError(f"bad user {self.user[:80]!r}")
        if len(self.volumes) > VOLUMES_MAX:
            raise ValueError(f"an entry names at most {VOLUMES_MAX} volumes")
        return msgspec.structs.replace(self, initiator=name)


class Rights:
    """Of one I_T nexus; ``volumes`` None stands for all, to be read and written."""

    def __init__(self, volumes: dict[str, bool] | None = None) -> None:
        self._volumes = volumes

    def may_write(self, volume: str) -> bool | None:
        """Whether that volume may be written; None: it is not there for this nexus."""
        return True if self._volumes is None else self._volumes.get(volume)


ALL: Final = Rights()


class AccessList:
    """Rule 1."""

    def __init__(self, entries: tuple[AccessEntry, ...] = ()) -> None:
        self.entries = entries

    def admits(self, initiator: str) -> bool:
        """Whether some entry may be for this initiator, as whom it may log in ever."""
        return not self.entries or any(_is_for(entry, initiator) for entry in self.entries)

    def rights(self, initiator: str, user: str | None) -> Rights | None:
        """What an initiator that has logged in as ``user`` may use; None: nothing."""
        if not self.entries:
            return ALL
        volumes: dict[str, bool] = {}
        found = False
        for entry in self.entries:
            if _is_for(entry, initiator) and entry.user in ("", user):
                found = True
                if not entry.volumes:
                    return ALL
                for volume, mode in entry.volumes.items():
                    volumes[volume] = volumes.get(volume, False) or mode == "rw"
        return Rights(volumes) if found else None


def _is_for(entry: AccessEntry, initiator: str) -> bool:
    return fnmatchcase(initiator.lower(), entry.initiator)
