"""A node's place among others, put together from its configuration.

Part of the composition root; in a module of its own because redis-py costs start-up time that a
node alone need not pay.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from target.block.volume import Volume
from target.block.worker_errors import WorkerGone
from target.block.worker_link import Others
from target.cluster.footprint import Footprint
from target.cluster.node import ClusterNode
from target.cluster.redis_link import RedisLink
from target.cluster.redis_registry import RedisRegistry
from target.cluster.registry import Member, Notices, Registry, RegistryAway
from target.config.model import ClusterConfig, Portal
from target.datadir import DataDir, DataDirError
from target.identity import NodeIdentity
from target.logs import Log
from target.node_list import MemberInfo, NodeList, decode_info
from target.reservation_file import ReservationCopy
from target.scsi.logical_unit import LogicalUnit
from target.scsi.reservations.exclusive import PortCame
from target.scsi.reservations.state import with_port
from target.shared_catalog import SharedCatalog
from target.shared_counters import SharedCounters
from target.shared_document import SharedDocument
from target.shared_reservations import SharedReservations
from target.shared_sessions import SharedSessions
from target.worker_volumes import WorkerVolumes

JOIN_SECONDS: Final = 10.0  # how long a start waits for Redis
JOIN_RETRY_SECONDS: Final = 0.5


class Clustering:
    """The node ``identity.id``; ``identity.epoch`` is the last one that it knows to have had."""

    def __init__(
        self,
        config: ClusterConfig,
        identity: NodeIdentity,
        data: DataDir,
        log: Log,
        *,
        on_fenced: Callable[[], None],
        on_stalled: Callable[[], None],
        on_cut_off: Callable[[bool], None],
        on_peers: Callable[[dict[str, int]], None],
    ) -> None:
        self._config = config
        self._log = log
        self._registry: RedisRegistry | None = None
        self._floor = identity.epoch
        self._peers = identity.peers
        self._number = identity.number
        self._id = config.node_id or identity.id
        self.nodes = NodeList(self._id, time.monotonic)
        self.node = ClusterNode(
            self._make_registry,
            self._id,
            lease_seconds=config.lease_seconds,
            wait_seconds=config.wait_seconds,
            clock=time.monotonic,
            wall=time.time,
            log=log,
            on_fenced=on_fenced,
            on_stalled=on_stalled,
            on_cut_off=on_cut_off,
            on_peers=on_peers,
            on_members=self.nodes.update,
        )
        self._units: dict[str, LogicalUnit] = {}
        self.footprint = Footprint(self.node, self.link.memory_bytes)
        self.catalog = SharedCatalog(self.node, data, log)
        self.sessions = SharedSessions(self.node)
        self.counters = SharedCounters(self.node, time.monotonic)

    def _make_registry(self, notices: Notices) -> Registry:
        assert self._registry is None, "once"
        url = self._config.url
        self._registry = RedisRegistry(url, self._id, notices, self._log)
        return self._registry

    async def join(self, portals: Sequence[Portal], iqn: str) -> NodeIdentity:
        """Become a member that serves the target ``iqn`` at ``portals``; the epoch of this life.

        Raises RegistryAway, WrongFormat or DataDirError.
        """
        assert self._registry is not None, "made with the node"
        labels = {str(portal): portal.group for portal in portals if portal.group}
        info = MemberInfo([*map(str, portals)], iqn, self._config.place, labels)
        encoded = msgspec.json.encode(info).decode()
        deadline = time.monotonic() + JOIN_SECONDS
        while True:
            try:
                await self.node.join(self._floor, encoded, self._peers, self._number)
                break
            except RegistryAway as exc:
                if time.monotonic() > deadline:
                    raise RegistryAway(f"cannot join the other nodes: {exc}") from exc
                await asyncio.sleep(JOIN_RETRY_SECONDS)
        for name, iqn in self.nodes.names_of_others().items():
            if iqn != info.iqn:
                await self.node.registry.leave(self.node.id, self.node.epoch)
                raise DataDirError(f"node {name} serves these disks as {iqn}: give --iqn {iqn}")
        await self._registry.start()
        self.node.start()
        self.footprint.start()
        node = self.node
        self._log.info(
            "joined", node=node.id, epoch=node.epoch, number=node.number, format=node.format
        )
        return NodeIdentity(
            id=self.node.id,
            epoch=self.node.epoch,
            number=self.node.number,
            peers=self.node.peers,
        )

    def gate(
        self, volume: Volume, unit: LogicalUnit, workers: WorkerVolumes, copy: ReservationCopy
    ) -> None:
        """Serve ``unit`` together with the others; ``copy`` is of its reservations."""
        lun = volume.uuid.hex
        reservations = SharedReservations(self.node, lun, copy, self._log)
        settings = SharedDocument(self.node, lun, "settings")

        async def load() -> None:
            """Until they are known, no command runs."""
            said = False
            while True:
                try:
                    unit.reservations.keep_in(reservations, await reservations.recover())
                    unit.settings.keep_in(settings, await settings.kept())
                    break
                except RegistryAway:
                    pass
                except ValueError as exc:
                    if not said:
                        self._log.error(
                            "what nodes keep together cannot be read",
                            volume=volume.name,
                            reason=str(exc),
                        )
                    said = True
                await asyncio.sleep(JOIN_RETRY_SECONDS)
            came = asyncio.Event()
            new = with_port(unit.reservations.state, self.node.number) != unit.reservations.state
            unit.reservations.lose(PortCame(self.node.number), came.set)
            if new:
                await came.wait()

        async def look(lost_port: int | None = None) -> None:
            while True:
                if await _looked(unit, lost_port):
                    return
                await asyncio.sleep(JOIN_RETRY_SECONDS)

        async def gone(node: str, fenced: bool) -> None:
            await look(self.node.numbers.get(node) if fenced else None)

        self._units[lun] = unit
        fencer = workers.fencer(volume)
        tracker = self.node.track(
            lun, unit, fencer, load, gone, look, workers.doubts(volume), fencer.covers
        )
        workers.know_whether_sole(volume, lambda: tracker.alone and self.node.leased)
        unit.gate = tracker

    async def strangers(self, others: Others) -> Others:
        """Those that are no members.  Raises WorkerGone."""
        try:
            members = {member.node for member in await self.node.registry.members()}
        except RegistryAway as exc:
            raise WorkerGone(f"who else has its volumes is not known: {exc}") from exc
        return tuple(other for other in others if other[0] not in members)

    @property
    def link(self) -> RedisLink:
        """The way to Redis."""
        assert self._registry is not None, "made with the node"
        return self._registry.link

    async def members(self) -> list[tuple[Member, list[str]]]:
        """The nodes and their portals; without Redis, as this node knew them last."""
        try:
            members = await self.node.registry.members()
        except RegistryAway:
            members = list(self.node.members.values())
        return [(member, decode_info(member.info).portals) for member in members]

    def units(self) -> list[tuple[str, LogicalUnit]]:
        """The units that are served together with others, by what they are registered as."""
        return list(self._units.items())

    async def ungate(self, volume: Volume) -> None:
        """The volume is gone from this node; nothing of it is in flight."""
        del self._units[volume.uuid.hex]
        await self.node.untrack(volume.uuid.hex)

    async def stop(self) -> None:
        """Leave; the catalog is closed."""
        await self.sessions.close()
        await self.counters.close()
        await self.footprint.stop()
        await self.node.stop()
        assert self._registry is not None, "made with the node"
        await self._registry.close()


async def _looked(unit: LogicalUnit, lost_port: int | None) -> bool:
    """Have what is kept looked up; whether that could be done."""
    looked: list[asyncio.Future[bool]] = []

    def done() -> Callable[[bool], None]:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        looked.append(future)
        return lambda sure: None if future.done() else future.set_result(sure)

    unit.reservations.look(done(), lost_port=lost_port)
    unit.settings.look(done())
    return all(await asyncio.gather(*looked))
