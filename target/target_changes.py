"""Changes of the catalog's targets (``catalog_part.py``)."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from target.catalog_part import CatalogPart
from target.config.load import TARGETS_MAX
from target.iscsi.target import IscsiTarget
from target.logs import Log
from target.target_info import TargetInfo
from target.target_records import TargetRecord, Targets
from target.volume_errors import VolumeError, VolumeFault
from target.volumes import Volumes


class TargetChanges(CatalogPart[TargetRecord]):
    """The targets of ``volumes``, as ``target`` serves them."""

    name = "targets"
    title = "targets"
    unit = "targets"

    def __init__(self, volumes: Volumes, target: IscsiTarget, log: Log) -> None:
        super().__init__(volumes.data, volumes.shared, log)
        self._volumes = volumes
        self._target = target
        target.targets = volumes.targets()

    def all(self) -> list[TargetInfo]:
        """The one that is there anyway first, then by name."""
        kept = {record.name for record in self.kept}
        volumes = [address.target for address in self._volumes.by_address]
        served = self._target.targets
        return [
            TargetInfo(
                name=it.name,
                source="node" if not it.key else "catalog" if it.name in kept else "configuration",
                portal_groups=sorted(it.groups),
                volumes=volumes.count(it.key),
                sessions=self._target.sessions_of(it.key),
            )
            for it in sorted(served, key=lambda it: it.key)
        ]

    async def create(self, record: TargetRecord) -> TargetInfo:
        """Serve another target.  Raises ValueError, VolumeError, OSError or NotEverywhere."""
        record = record.checked()
        if self._target.targets.find(record.name) is not None:
            raise VolumeError(VolumeFault.CONFLICT, f"there is a target {record.name} already")

        def edit(records: Targets) -> Targets:
            if any(other.name == record.name for other in records):
                raise VolumeError(VolumeFault.CONFLICT, f"there is a target {record.name} already")
            if len(records) >= TARGETS_MAX:
                raise VolumeError(VolumeFault.CONFLICT, f"there are {TARGETS_MAX} targets already")
            return (*records, record)

        await self.change(edit)
        return self._info(record.name)

    async def set_portal_groups(self, record: TargetRecord) -> TargetInfo:
        """Have other portals lead to a target; sessions at those that do not any more end.

        The node's own target is in the catalog while it is limited.
        Raises ValueError, VolumeError, OSError or NotEverywhere.
        """
        record = record.checked()
        served = self._target.targets.find(record.name)
        if served is None:
            raise _no_target(record.name)
        if served.name in self._volumes.configured_targets:
            raise VolumeError(VolumeFault.CONFLICT, f"target {served.name} is configured here")
        record = msgspec.structs.replace(record, name=served.name)
        own = not served.key

        def edit(records: Targets) -> Targets:
            if own:
                others = tuple(it for it in records if it.name != record.name)
                return (*others, record) if record.portal_groups else others
            if all(it.name != record.name for it in records):
                raise _no_target(record.name)
            return tuple(record if it.name == record.name else it for it in records)

        await self.change(edit)
        return self._info(record.name)

    def _info(self, name: str) -> TargetInfo:
        return next(it for it in self.all() if it.name == name)

    async def delete(self, name: str) -> None:
        """Serve a target no more, in which there is no volume.

        Raises VolumeError, OSError or NotEverywhere.
        A volume that another node puts there at the same time is found by nobody until it is moved.
        """
        if name == self._target.targets.own.name:  # the catalog may have it, since it is limited
            raise VolumeError(VolumeFault.CONFLICT, f"target {name} is there anyway")
        left = [it.name for at, it in self._volumes.by_address.items() if at.target == name]
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise VolumeError(
                VolumeFault.CONFLICT, f"volume {left[0]!r}{more} is in target {name}: move it first"
            )

        def edit(records: Targets) -> Targets:
            others = tuple(other for other in records if other.name != name)
            if len(others) == len(records):
                raise _no_target(name)
            return others

        await self.change(edit)

    def apply(self, values: Targets, done: Callable[[], None]) -> None:
        """Serve them, and those that are configured."""
        self._target.set_targets(self._volumes.targets(), done)


def _no_target(name: str) -> VolumeError:
    return VolumeError(VolumeFault.MISSING, f"no target {name[:80]!r} in the catalog")
