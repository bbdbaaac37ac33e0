"""What other nodes change about volumes, done here.

Rules:

1. Nothing is changed here by command meanwhile, and the catalog is read then: what it says is newer
   than all that has been done here.
2. A volume that another node has deleted is gone from here at once.  Whether its data go is that
   node's concern, and everybody's if it does not come to that: each goes on with it after a while.
3. What is being deleted here never comes back, whatever the catalog says: some of it is gone.
4. A volume that cannot be followed keeps no other from it, and is told by name.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

from target.block.worker_errors import ShareRefused, WorkerGone
from target.catalog_following import Trouble, reason_of
from target.datadir import DataDirError, VolumeRecord
from target.logs import Log
from target.scsi.lun import LunAddress
from target.shared_catalog import Load
from target.volume_errors import VolumeError, VolumeFault
from target.volumes import Volumes

HELP_SECONDS: Final = 5.0  # by then who deletes a volume has done so
TITLE: Final = "volumes"


def titled(name: str) -> str:
    """What a volume is called where it has not been followed."""
    return f"volume {name}"


class VolumeFollowing:
    """Follows the catalog of all nodes; ``lock`` is held while volumes are changed here."""

    def __init__(self, volumes: Volumes, lock: asyncio.Lock, log: Log) -> None:
        self._volumes = volumes
        self._data = volumes.data
        self._lock = lock
        self._log = log
        self._theirs: set[str] = set()  # UUIDs of what other nodes delete (rule 2)

    async def follow(self, load: Load) -> Trouble:
        """Do here what other nodes have done; what it could not.  Raises RegistryAway."""
        trouble: Trouble = {}
        async with self._lock:
            catalog = await load()
            if catalog is None:
                return {}
            records = catalog.volumes
            for name, mine in self._data.volumes.items():
                with _told(trouble, name):
                    await self._follow_deletion(name, mine, records.get(name))
            await self._follow_moves(records, trouble)
            for name, record in records.items():
                if not record.deleting:
                    with _told(trouble, name):
                        await self._follow_record(name, record)
        return trouble

    async def _follow_deletion(
        self, name: str, mine: VolumeRecord, theirs: VolumeRecord | None
    ) -> None:
        there = theirs is not None and theirs.uuid == mine.uuid
        if mine.deleting:
            if mine.uuid in self._theirs and not there:
                self._theirs.discard(mine.uuid)
                self._data.drop(name)
            return  # what could not be made here, the others never had
        if not mine.shared or (there and theirs is not None and not theirs.deleting):
            return
        address = self._volumes.address_of(name)
        if address is not None:
            await self._volumes.remove(address)
            self._log.info("volume deleted elsewhere", volume=name, lun=address)
        if not there:
            self._data.drop(name)
            return
        self._theirs.add(mine.uuid)
        self._data.begin_delete(name)
        self._volumes.cleanup.begin(HELP_SECONDS)

    async def _follow_moves(self, records: dict[str, VolumeRecord], trouble: Trouble) -> None:
        """Each goes where nothing is any more; if they are in a circle, one makes room first."""
        moves: dict[str, LunAddress] = {}
        for name, record in records.items():
            address = self._volumes.address_of(name)
            if address is None or record.lun is None or name in self._volumes.configured:
                continue
            new = LunAddress(record.target, record.lun)
            if new != address:
                moves[name] = new
        while moves:
            taken = self._volumes.by_address
            name = next((name for name, new in moves.items() if new not in taken), "")
            aim = moves.pop(name) if name else None
            if aim is None:
                name, wanted = next(iter(moves.items()))
                in_the_way = taken[wanted].name
                if in_the_way not in moves:
                    trouble[titled(name)] = _taken(wanted, in_the_way)
                    del moves[name]
                    continue
                aim = self._volumes.free_address(wanted.target)
            with _told(trouble, name):
                await self._move(name, aim)
            if titled(name) in trouble:
                moves.pop(name, None)

    async def _move(self, name: str, new: LunAddress) -> None:
        old = self._volumes.address_of(name)
        assert old is not None, "it was there"
        self._data.remap(name, new.number, new.target)
        await self._volumes.move(old, new)
        self._log.info("volume mapped elsewhere", volume=name, lun=new)

    async def _follow_record(self, name: str, record: VolumeRecord) -> None:
        mine, address = self._data.record(name), self._volumes.address_of(name)
        if mine is not None and mine.uuid == record.uuid and mine.deleting:
            return  # rule 3
        if address is None:
            await self._follow_creation(name, record)
        elif mine is not None and record.size_bytes > mine.size_bytes:
            volume = self._volumes.by_address[address]
            with contextlib.suppress(WorkerGone, ShareRefused):  # they have it from the other node
                await self._volumes.workers().grow(volume, record.size_bytes)
            self._data.resize(name, record.size_bytes)
            self._volumes.grown(address, record.size_bytes)

    async def _follow_creation(self, name: str, record: VolumeRecord) -> None:
        shared = self._volumes.shared
        assert shared is not None, "who else calls"
        if record.lun is None:
            return  # configured elsewhere
        address = LunAddress(record.target, record.lun)
        other = self._volumes.by_address.get(address)
        if other is not None:
            raise VolumeError(VolumeFault.CONFLICT, _taken(address, other.name))
        mine = shared.adopt(name, record)
        volume = await self._volumes.open(name, mine, mine.read_only)
        await self._volumes.workers().wait_open(volume)
        self._volumes.add(address, volume)
        self._log.info("volume created elsewhere", volume=name, lun=address)


@contextlib.contextmanager
def _told(trouble: Trouble, name: str) -> Iterator[None]:
    """Rule 4."""
    try:
        yield
    except (VolumeError, DataDirError, OSError) as exc:
        trouble[titled(name)] = reason_of(exc)


def _taken(address: LunAddress, name: str) -> str:
    return f"LUN {address} is volume {name!r} there"
