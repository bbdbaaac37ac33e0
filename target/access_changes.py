"""Changes of the access list while a node runs: here, and with several nodes on all of them.

A change is kept first, and counts as done when it is in force on every node: who may not log in any
more is logged out, and nothing runs that may not.  A node that is away reads the list before it
serves again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from target.cluster.registry import RegistryAway, StaleNode
from target.datadir import DataDir
from target.iscsi.target import IscsiTarget
from target.logs import Log
from target.scsi.access_list import ENTRIES_MAX, AccessEntry, AccessList
from target.shared_catalog import SharedCatalog
from target.volume_errors import VolumeError, VolumeFault

Entries = tuple[AccessEntry, ...]


class AccessChanges:
    """The list that ``target`` goes by, as ``data`` keeps it."""

    def __init__(
        self, data: DataDir, target: IscsiTarget, shared: SharedCatalog | None, log: Log
    ) -> None:
        self._data = data
        self._target = target
        self._shared = shared
        self._log = log
        self._lock = asyncio.Lock()
        target.access = AccessList(data.access)
        if shared is not None:
            shared.follow_access = self.follow

    @property
    def entries(self) -> Entries:
        """As they are in force here."""
        return self._target.access.entries

    async def put(self, entry: AccessEntry) -> AccessEntry:
        """Add an entry, or replace the one for the same initiators and user.

        Raises ValueError, VolumeError or OSError.
        """
        entry = entry.checked()
        for name in entry.volumes:
            record = self._data.record(name)
            if record is None or record.deleting:
                raise VolumeError(VolumeFault.MISSING, f"no volume {name!r}")

        def edit(entries: Entries) -> Entries:
            others = tuple(other for other in entries if other.key != entry.key)
            if len(others) >= ENTRIES_MAX:
                raise VolumeError(VolumeFault.CONFLICT, f"there are {ENTRIES_MAX} entries already")
            return (*others, entry)

        await self._change(edit)
        return entry

    async def delete(self, initiator: str, user: str = "", *, everybody: bool = False) -> None:
        """Remove an entry; the last one only if ``everybody`` may log in from then on.

        Raises VolumeError or OSError.
        """
        key = (initiator.strip().lower(), user)

        def edit(entries: Entries) -> Entries:
            others = tuple(other for other in entries if other.key != key)
            if len(others) == len(entries):
                whom = f"{initiator!r}" + f" as user {user!r}" * bool(user)
                raise VolumeError(VolumeFault.MISSING, f"no entry for {whom}")
            if not others and not everybody:
                raise VolumeError(
                    VolumeFault.CONFLICT,
                    "that is the last entry: without it everybody may log in, if you say so"
                    " (--everybody)",
                )
            return others

        await self._change(edit)

    async def _change(self, edit: Callable[[Entries], Entries]) -> None:
        async with self._lock:
            if self._shared is None:
                entries = edit(self.entries)
            else:
                try:
                    entries = await self._shared.change_access(edit)
                except (RegistryAway, StaleNode) as exc:
                    raise VolumeError(VolumeFault.AWAY, str(exc)) from exc
            await self._use(entries)
        if self._shared is not None and not await self._shared.announce():
            self._log.warning("not every node has followed a change of the access list yet")

    async def follow(self, entries: Entries) -> None:
        """Do here what another node has done.  Raises OSError."""
        async with self._lock:
            if entries != self.entries:
                await self._use(entries)

    async def _use(self, entries: Entries) -> None:
        self._data.keep_access(entries)
        in_force: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._target.set_access(AccessList(entries), lambda: in_force.set_result(None))
        await in_force
        self._log.info("access list changed", entries=len(entries))
