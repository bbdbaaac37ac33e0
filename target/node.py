"""The composition root of a node: stores, volumes, bus, iSCSI target and portals, put together.

Everything that is real comes from here: clock, randomness, threads, sockets and files.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from target.access_changes import AccessChanges
from target.block.pool import BufferPool
from target.config import ServeConfig
from target.config.model import ChapUser, ClusterConfig
from target.config.model import Portal as PortalAddress
from target.datadir import DataDir, DataDirError
from target.identity import ID_BYTES, NodeIdentity, keep_epoch, last_epoch
from target.iscsi.chap import ChapPolicy, Secret
from target.iscsi.listener import at_portal, bind
from target.iscsi.parameters import TargetLimits
from target.iscsi.port_names import port_designators
from target.iscsi.portal import Portal
from target.iscsi.session import plan_window
from target.iscsi.target import IscsiTarget, TargetOptions
from target.logs import Log
from target.node_counters import NodeCounters, node_counters
from target.processes.inlet import Inlet
from target.ready import ReadyInfo, ReadyLun
from target.scsi.bus import SCSIBus
from target.shared_sessions import sessions_of
from target.sight import Sight, end_nexus
from target.target_changes import TargetChanges
from target.user_changes import MutualChanges, UserChanges
from target.volume_changes import VolumeChanges
from target.volume_following import TITLE
from target.volumes import Volumes
from workers.busy_poll import BusyPoll
from workers.executor import BlockingExecutor
from workers.grpc_environment import prepare_grpc
from workers.uring import open_uring

if TYPE_CHECKING:
    from target.clustering import Clustering

SESSIONS_MAX = 128
ALONE = "alone"  # the name of a node that has none
ALONE_NUMBER = 1  # of a node alone: of its target port, and of its portal group
# Discovery sessions and connections that have not logged in yet come on top of the sessions.
CONNECTIONS_MAX = 2 * SESSIONS_MAX


@dataclass(frozen=True, slots=True)
class NodeParts:
    """What a running node is made of, for whoever looks at it."""

    config: ServeConfig
    target: IscsiTarget
    pool: BufferPool
    executor: BlockingExecutor
    volumes: Volumes
    portals: list[Portal]
    clustering: Clustering | None  # None: it is alone


class Node:
    """A running node."""

    ready: ReadyInfo
    changes: VolumeChanges
    targets: TargetChanges
    access: AccessChanges
    users: UserChanges
    mutual: MutualChanges

    def __init__(self, config: ServeConfig, log: Log, inlet: Inlet | None = None) -> None:
        """With ``inlet`` another process listens, at the addresses that ``config`` has."""
        self._config = config
        self._log = log
        self._inlet = inlet
        self._data: DataDir | None = None
        self._executor: BlockingExecutor | None = None
        self._volumes: Volumes | None = None
        self._target: IscsiTarget | None = None
        self._bound: list[socket.socket] = []  # those of portals, and of those still to be
        self._portals: list[Portal] = []
        self._something_ended = asyncio.Event()
        self.lost = ""  # why it cannot serve any more, and has to end
        self.on_lost: Callable[[], None] = lambda: None
        self._clustering: Clustering | None = None
        self._identity: NodeIdentity | None = None  # of a node among others
        self.fenced = asyncio.Event()  # others have shut this node out: it has to start anew

    @property
    def volumes(self) -> Volumes:
        """The volumes; once it has been started."""
        assert self._volumes is not None, "not started"
        return self._volumes

    async def start(self, *, all_volumes: bool = True) -> None:
        """Open everything, then listen.  Raises ConfigError, DataDirError or OSError.

        Without ``all_volumes`` only what is configured is opened, and nothing else is touched.
        """
        config = self._config
        loop = asyncio.get_running_loop()
        self._data = DataDir(config.data_dir)
        self._executor = BlockingExecutor(
            config.io_threads, loop.call_soon_threadsafe, open_uring(loop)
        )
        pool = BufferPool(config.buffer_memory_bytes)
        number, identity = ALONE_NUMBER, None
        sockets = self._bind(config.portals) if self._inlet is None else []
        if config.cluster is not None:
            self._clustering = self._make_clustering(config.cluster)
            identity = await self._join(self._clustering, sockets)
            number = self._clustering.node.number
        bus = SCSIBus(number)
        self._volumes = Volumes(
            config,
            self._data,
            self._executor,
            bus,
            pool,
            self._log,
            port_designators=lambda name: port_designators(name, number, number),
            clustering=self._clustering,
            on_lost=self._lost,
            on_fenced=self._shut_out,
        )
        if self._clustering is not None:
            self._volumes.identity = identity
            nodes = self._clustering.nodes
            bus.live_ports, bus.gone_ports = nodes.live_ports, nodes.gone_ports
            bus.all_ports = self._clustering.node.numbers_known
            nodes.changed = bus.ports_changed
            self._volumes.shared = self._clustering.catalog
        self.changes = VolumeChanges(self._volumes, self._sessions, self._log)
        await self._volumes.start(all_volumes=all_volumes)
        chap = _chap_policy(config.chap, config.mutual_chap)
        self._target = self._make_target(bus, pool, number, chap)
        self._target.on_session_end = self._something_ended.set
        shared = self._volumes.shared
        self.targets = TargetChanges(self._volumes, self._target, self._log)
        self.access = AccessChanges(
            self._data, self._target, self._volumes.target_of, config.acls, shared, self._log
        )
        self.users = UserChanges(self._data, self._target, chap, shared, self._log)
        self.mutual = MutualChanges(self._data, self.users, shared, self._log)
        if shared is not None and all_volumes:
            shared.add_follower(TITLE, self.changes.following.follow)
            await shared.following.begin()
        self._target.advertised = [(str(portal), portal.group) for portal in config.advertise]
        if self._clustering is not None:
            self._target.other_portals = self._clustering.nodes.other_portals
            self._clustering.catalog.on_end_nexus = partial(end_nexus, self._target)
            self._clustering.sessions.own = partial(sessions_of, self.name, self._target)
            self._target.on_sessions = self._clustering.sessions.changed
            self._clustering.counters.start(self.counters)
        place = config.cluster.place if config.cluster is not None else None
        busy = place.count if place is not None else 1
        poll = BusyPoll(config.busy_poll_seconds, busy)
        for index, address in enumerate(config.portals):
            portal = Portal(
                self._target,
                address.host,
                address.port,
                time.monotonic,
                CONNECTIONS_MAX,
                poll,
                address.group,
            )
            portal.on_drop = self._something_ended.set
            if self._inlet is None:
                with at_portal(address):
                    portal.start(sockets[index])
            else:
                portal.begin()
                self._inlet.portals.append(portal.take)
            self._portals.append(portal)
            self._target.addresses.append((portal.host, portal.port, portal.group))
        self.ready = ReadyInfo(
            iqn=config.iqn,
            portals=tuple(PortalAddress(p.host, p.port) for p in self._portals),
            luns=tuple(
                ReadyLun(str(address), v.name, v.size, v.read_only)
                for address, v in self._volumes.by_address.items()
            ),
        )

    def _lost(self, reason: str) -> None:
        """As in ``_shut_out``, unless answers were wrong: who is told of that has to be told here.

        The next life knows nothing of what this one has lost, and its flushes succeed.
        """
        if self._volumes is None or not self._volumes.kept_bytes:
            self._hang_up()
        self.lost = reason
        self.on_lost()

    def _shut_out(self, reason: str) -> None:
        """A worker refuses this life: no command of it is answered, and none comes any more.

        Initiators go another way when a connection ends; a command that fails they may give up.  A
        node among others starts anew.  One that is alone has a double, with its data directory, or
        was shut out by hand: to go on would be to shut the other one out.
        """
        self._log.error("this node has been shut out", reason=reason)
        self._hang_up()
        self.fenced.set()
        if self._clustering is not None:
            self._clustering.node.fenced()
        else:
            self._lost(reason)

    def _hang_up(self) -> None:
        if self._inlet is not None:
            self._inlet.shut()
        for portal in self._portals:
            portal.close()

    def _make_clustering(self, config: ClusterConfig) -> Clustering:
        assert self._data is not None, "opened first"
        prepare_grpc()
        from target.clustering import Clustering  # redis-py: not without need

        last = last_epoch(self._data.path, os.urandom(ID_BYTES).hex())
        return Clustering(
            config,
            last,
            self._data,
            self._log,
            on_fenced=self.fenced.set,
            on_stalled=lambda: self._drop_sessions("this node was stopped for too long"),
            on_cut_off=self._cut_off,
            on_peers=self._keep_peers,
        )

    def _bind(self, portals: Iterable[PortalAddress]) -> list[socket.socket]:
        """Addresses are taken before other nodes hear of them, and before anything is opened."""
        for address in portals:
            with at_portal(address):
                self._bound.append(bind(address.host, address.port))
        return self._bound

    async def _join(self, clustering: Clustering, sockets: Iterable[socket.socket]) -> NodeIdentity:
        assert self._data is not None, "opened first"
        bound = list(self._config.portals)
        if self._inlet is None:
            bound = [it.bound(sock) for it, sock in zip(bound, sockets, strict=True)]
        advertised = self._config.advertise or [each for each in bound if not each.wildcard]
        if not advertised:
            self._log.warning("other nodes cannot tell initiators of this one: see --advertise")
        identity = await clustering.join(advertised, self._config.iqn)
        keep_epoch(self._data.path, identity)
        self._identity = identity
        return identity

    def _keep_peers(self, peers: dict[str, int]) -> None:
        if self._identity is not None and self._data is not None:
            self._identity = msgspec.structs.replace(self._identity, peers=peers)
            try:
                keep_epoch(self._data.path, self._identity)
            except DataDirError as exc:
                self._log.error("cannot keep who the other nodes are", reason=str(exc))

    @property
    def name(self) -> str:
        """Among others, if there are any."""
        return self._clustering.node.id if self._clustering is not None else ALONE

    @property
    def sight(self) -> Sight:
        """What happens here; once it has been started."""
        assert self._target is not None, "not started"
        assert self._data is not None, "not started"
        clustering = self._clustering
        return Sight(
            self.name,
            [str(portal) for portal in self.ready.portals],
            self._target,
            self._target.bus,
            clustering,
            clock=time.monotonic,
            wall=time.time,
        )

    @property
    def parts(self) -> NodeParts:
        """Once it has been started."""
        assert self._target is not None, "not started"
        assert self._executor is not None, "not started"
        return NodeParts(
            self._config,
            self._target,
            self._target.pool,
            self._executor,
            self.volumes,
            self._portals,
            self._clustering,
        )

    async def counters(self, every_seconds: float = 0.0) -> NodeCounters:
        """Those of this node, now; once it has been started."""
        epoch = self._clustering.node.epoch if self._clustering is not None else 0
        parts = self.parts
        return await node_counters(
            parts.target,
            parts.volumes.remote.links if parts.volumes.remote is not None else (),
            node=self.name,
            epoch=epoch,
            connections=sum(len(portal.channels) for portal in parts.portals),
            clock=time.monotonic,
            every_seconds=every_seconds,
        )

    def _drop_sessions(self, reason: str) -> None:
        """What initiators have sent may be theirs no more: they begin new sessions."""
        for portal in self._portals:
            portal.drop_all(reason)

    def _cut_off(self, cut_off: bool) -> None:
        """A path that only says BUSY is one that no initiator gives up by itself."""
        if self._target is not None:
            self._target.cut_off = cut_off
        if cut_off:
            self._drop_sessions("this node is cut off from the others")

    def _sessions(self, target: str) -> int:
        """Initiators that are logged in to a target, discovery aside."""
        return self._target.sessions_of(target) if self._target is not None else 0

    def _make_target(
        self, bus: SCSIBus, pool: BufferPool, number: int, chap: ChapPolicy | None
    ) -> IscsiTarget:
        config = self._config
        first_burst, sessions_max = plan_window(pool, SESSIONS_MAX)
        return IscsiTarget(
            config.iqn,
            bus,
            pool,
            limits=TargetLimits(
                first_burst_length=first_burst,
                initial_r2t=config.strict,
                immediate_data=not config.strict,
            ),
            options=TargetOptions(
                queue_depth=1 if config.strict else config.queue_depth,
                sessions_max=sessions_max,
                login_timeout_seconds=config.login_timeout_seconds,
                nop_interval_seconds=config.nop_interval_seconds,
                nop_timeout_seconds=config.nop_timeout_seconds,
            ),
            random=os.urandom,
            clock=time.monotonic,
            chap=chap,
            chap_discovery=chap if config.chap_discovery else None,
            tag=number,
        )

    async def stop(self) -> None:
        """Say goodbye to the initiators, end what runs within the bound, flush, close."""
        deadline = time.monotonic() + self._config.shutdown_timeout_seconds
        if self._volumes is not None:
            await self._volumes.stop()
        if self._inlet is not None:
            self._inlet.shut()
        for bound in self._bound[len(self._portals) :]:
            bound.close()
        for portal in self._portals:
            portal.stop_listening()
            portal.drop_idle()
        if self._target is not None and self.fenced.is_set():
            self._target.shutting_down = True
            for portal in self._portals:
                portal.close()
            await self._until(self._target_idle, deadline + self._config.worker_timeout_seconds)
        elif self._target is not None:
            left = max(1, math.ceil(self._config.shutdown_timeout_seconds))
            self._target.ask_to_log_out(left)
            await self._until(lambda: not self._any_channel(), deadline)
            for portal in self._portals:
                portal.close()
            # Sessions end when the last store has answered; there is nothing that could be cut
            # short.
            await self._until(self._target_idle, deadline + self._config.shutdown_timeout_seconds)
            if self._volumes is not None:
                await self._volumes.drain(self._config.shutdown_timeout_seconds)
                self._volumes.give_up()
        if self._clustering is not None:
            await self._clustering.catalog.close()  # no volume comes or goes from now on
        if self._volumes is not None and not self.fenced.is_set():
            await self._volumes.flush()
        if self._clustering is not None:
            await self._clustering.stop()
        if self._executor is not None:
            self._executor.close()
        if self._volumes is not None:
            await self._volumes.close()
        if self._data is not None:
            self._data.close()

    def _any_channel(self) -> bool:
        return any(p.channels for p in self._portals)

    def _target_idle(self) -> bool:
        return self._target is None or not self._target.busy

    async def _until(self, condition: Callable[[], bool], deadline: float) -> None:
        """Wait for something that ends with a connection or a session."""
        with contextlib.suppress(TimeoutError):
            while not condition():
                self._something_ended.clear()
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._something_ended.wait()


def _chap_policy(users: tuple[ChapUser, ...], mutual: ChapUser | None) -> ChapPolicy | None:
    if not users:
        return None
    return ChapPolicy(
        {user.user: Secret(user.secret) for user in users},
        (mutual.user, Secret(mutual.secret)) if mutual is not None else None,
    )
