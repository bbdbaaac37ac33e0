"""Changes of the access list (``catalog_part.py``)."""

from __future__ import annotations

from collections.abc import Callable

from target.catalog_part import CatalogPart
from target.datadir import DataDir
from target.iscsi.target import IscsiTarget
from target.logs import Log
from target.scsi.access_list import ENTRIES_MAX, AccessEntry, AccessList
from target.shared_catalog import SharedCatalog
from target.volume_errors import VolumeError, VolumeFault

Entries = tuple[AccessEntry, ...]


class AccessChanges(CatalogPart[AccessEntry]):
    """The list that ``target`` goes by: entries that are ``configured``, and the catalog's."""

    name = "access"
    title = "access list"
    unit = "entries"

    def __init__(
        self,
        data: DataDir,
        target: IscsiTarget,
        target_of: Callable[[str], str],
        configured: Entries,
        shared: SharedCatalog | None,
        log: Log,
    ) -> None:
        """``target_of`` names the target that a volume is in."""
        super().__init__(data, shared, log)
        self._target = target
        self._target_of = target_of
        self.configured = configured
        target.access = self._list(self.kept)

    def _list(self, entries: Entries) -> AccessList:
        """What is configured counts first."""
        return AccessList((*self.configured, *entries), self._target_of)

    async def put(self, entry: AccessEntry) -> AccessEntry:
        """Add an entry, or replace the one for the same initiators, user and target.

        Raises ValueError, VolumeError, OSError or NotEverywhere.
        """
        entry = entry.checked()
        if entry.target and self._target.targets.find(entry.target) is None:
            raise VolumeError(VolumeFault.MISSING, f"no target {entry.target!r}")
        for name in entry.volumes:
            record = self._data.record(name)
            if record is None or record.deleting:
                raise VolumeError(VolumeFault.MISSING, f"no volume {name!r}")

        def edit(entries: Entries) -> Entries:
            others = tuple(other for other in entries if other.key != entry.key)
            if len(others) >= ENTRIES_MAX:
                raise VolumeError(VolumeFault.CONFLICT, f"there are {ENTRIES_MAX} entries already")
            return (*others, entry)

        await self.change(edit)
        return entry

    async def delete(
        self, initiator: str, user: str = "", target: str = "", *, everybody: bool = False
    ) -> None:
        """Remove an entry; the last one only if ``everybody`` may log in from then on.

        Raises VolumeError, OSError or NotEverywhere.
        """
        key = (initiator.strip().lower(), user, target.strip().lower())

        def edit(entries: Entries) -> Entries:
            others = tuple(other for other in entries if other.key != key)
            if len(others) == len(entries):
                whom = f"{initiator!r}" + f" as user {user!r}" * bool(user)
                whom += f" to target {target!r}" * bool(target)
                raise VolumeError(VolumeFault.MISSING, f"no entry for {whom}")
            if not others and not self.configured and not everybody:
                raise VolumeError(
                    VolumeFault.CONFLICT,
                    "that is the last entry: without it everybody may log in, if you say so"
                    " (--everybody)",
                )
            return others

        await self.change(edit)

    def apply(self, entries: Entries, done: Callable[[], None]) -> None:
        """Go by them."""
        self._target.set_access(self._list(entries), done)
