"""What happens in this node, and in the others as far as all know of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from target.cluster.registry import RegistryAway
from target.iscsi.target import IscsiTarget
from target.scsi.bus import SCSIBus
from target.scsi.lun import LunAddress
from target.scsi.reservations.names import NexusName
from target.scsi.unit_events import EndNexus, EndTask
from target.shared_sessions import sessions_of
from target.sight_info import NodeInfo, ReservationInfo, SessionInfo, SessionList, TaskList
from target.task_list import TaskLister, TaskQuery
from target.volume_errors import VolumeError, VolumeFault

if TYPE_CHECKING:
    from target.clustering import Clustering

SESSIONS_MAX: Final = 10_000  # in one answer
EVERY_TASK: Final = TaskQuery()  # as far as an answer goes
LOGOUT_SECONDS: Final = 3  # that an initiator has for it, until it is dropped
DROP_LOOK_SECONDS: Final = 0.2  # how often to look whether it has gone
DROP_LOOKS_MAX: Final = 75  # for the logout, the last bytes, and the list of another node


class Sight:
    """``node_id`` and ``portals`` are of this node; ``clustering`` knows the others, if any."""

    def __init__(
        self,
        node_id: str,
        portals: list[str],
        target: IscsiTarget,
        bus: SCSIBus,
        clustering: Clustering | None,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._id = node_id
        self._portals = portals
        self._target = target
        self._bus = bus
        self._clustering = clustering
        self._lister = TaskLister(node_id, bus, self._name_of, clustering, clock=clock, wall=wall)

    async def nodes(self) -> list[NodeInfo]:
        """This node and the others, by name."""
        if self._clustering is None:
            alone = NodeInfo(
                id=self._id,
                epoch=0,
                number=1,
                state="alone",
                lease_seconds_left=None,
                portals=self._portals,
                here=True,
            )
            return [alone]
        found = []
        try:
            behind = await self._clustering.catalog.following.behind()
        except RegistryAway:
            behind = {}
        for member, portals in await self._clustering.members():
            silent = "serving" if member.left_ms > 0 else "silent"
            found.append(
                NodeInfo(
                    id=member.node,
                    epoch=member.epoch,
                    number=member.number,
                    state="shut out" if member.reaper else silent,
                    lease_seconds_left=round(member.left_ms / 1000, 1),
                    portals=portals,
                    here=member.node == self._id,
                    behind=behind.get(member.node, {}),
                )
            )
        return sorted(found, key=lambda node: node.id)

    async def sessions(self) -> SessionList:
        """The sessions of this node, by TSIH, and those of the others; discovery aside."""
        found, others = await self._known_sessions()
        more = len(found) > SESSIONS_MAX
        return SessionList(sessions=found[:SESSIONS_MAX], more=more, others=others)

    async def _known_sessions(self) -> tuple[list[SessionInfo], bool]:
        """And whether those of the other nodes are among them."""
        found = sessions_of(self._id, self._target)
        if self._clustering is None:
            return found, False
        try:
            return found + await self._clustering.sessions.others(), True
        except RegistryAway:
            return found, False  # what is known here is told all the same

    async def node(self, name: str) -> NodeInfo:
        """One of ``nodes``.  Raises VolumeError."""
        for it in await self.nodes():
            if it.id == name:
                return it
        raise VolumeError(VolumeFault.MISSING, f"no node {name[:80]!r}: see lunmesh node list")

    async def session(self, session_id: str) -> SessionInfo:
        """One of ``sessions``.  Raises VolumeError."""
        found, others = await self._known_sessions()
        for it in found:
            if it.id == session_id:
                return it
        elsewhere = session_id.rpartition("/")[0] != self._id
        if self._clustering is not None and elsewhere and not others:
            raise VolumeError(VolumeFault.AWAY, "the sessions of other nodes are not known now")
        said = f"no session {session_id[:300]!r}: see lunmesh session list"
        raise VolumeError(VolumeFault.MISSING, said)

    async def drop(self, session_id: str) -> None:
        """Have its initiator log out, or its connection closed, on whichever node it is.

        Raises VolumeError.  Nothing keeps the initiator from coming back.
        """
        wanted = await self.session(session_id)
        served = self._target.targets.find(wanted.target)
        try:
            port = await self._port_of(wanted.node)
        except KeyError:
            served = None
        if served is None:
            raise VolumeError(VolumeFault.MISSING, f"session {session_id!r} is over")
        nexus = NexusName(wanted.initiator, bytes.fromhex(wanted.isid), port)
        event = EndNexus(nexus, served.key)
        end_nexus(self._target, event)
        if wanted.node != self._id and self._clustering is not None:
            if not self._clustering.catalog.at_format_2:
                why = "a node did not understand it when this one joined"
                raise VolumeError(VolumeFault.CONFLICT, f"ask node {wanted.node} itself: {why}")
            await self._clustering.catalog.tell(event)  # who has not heard it is seen below
        for _ in range(DROP_LOOKS_MAX):
            await asyncio.sleep(DROP_LOOK_SECONDS)
            try:
                it = await self.session(session_id)
            except VolumeError as exc:
                if exc.fault is VolumeFault.MISSING:
                    return
                raise
            if (it.initiator, it.isid) != (wanted.initiator, wanted.isid):
                return
        raise VolumeError(VolumeFault.AWAY, f"session {session_id!r} was to end, and has not yet")

    def _name_of(self, target: str) -> str:
        return self._target.targets.name_of(target) or target

    def reservations(self) -> list[ReservationInfo]:
        """Of each logical unit that has any, by LUN."""
        units = sorted(self._bus.units.items())
        states = [(address, unit.reservations.state) for address, unit in units]
        return [
            ReservationInfo(
                target=self._name_of(address.target),
                lun=address.number,
                generation=state.generation,
                type="" if state.type is None else state.type.name.lower().replace("_", " "),
                holder=_port(state.holder or state.reserved_by),
                registered=[_port(it.nexus) for it in state.registrations],
                aptpl=state.aptpl,
            )
            for address, state in states
            if state.registrations or state.reserved_by is not None
        ]

    async def tasks(self, query: TaskQuery = EVERY_TASK) -> TaskList:
        """The commands that have not ended, the oldest first."""
        return await self._lister.find(query)

    async def _port_of(self, node: str) -> int:
        """Raises KeyError."""
        if self._clustering is None:
            return self._bus.port
        members = await self._clustering.members()
        return {member.node: member.number for member, _ in members}[node]

    async def abort(self, task_id: str) -> None:
        """End a command, of this node or another, in ABORTED COMMAND.  Raises VolumeError."""
        try:
            node, lun, tag, port = task_id.split("/", 3)
            initiator, separator, isid = port.rpartition(",i,0x")
            unit = self._bus.units[LunAddress.parse(lun)]
            nexus = NexusName(initiator.lower(), bytes.fromhex(isid), await self._port_of(node))
            event = EndTask(nexus, int(tag, 16))
        except (ValueError, KeyError):
            separator = ""
        if not separator:
            raise VolumeError(VolumeFault.MISSING, f"no task {task_id!r}: see lunmesh task list")
        if node == self._id:
            if not unit.end_task(event):
                raise VolumeError(VolumeFault.MISSING, f"task {task_id!r} is over")
            return
        if unit.gate is None or self._clustering is None:
            raise VolumeError(VolumeFault.MISSING, f"no node {node!r} here")
        known, all_known = await self._lister.elsewhere(task_id)
        if not known:
            if not all_known:
                raise VolumeError(VolumeFault.AWAY, "not all commands of other nodes are known")
            raise VolumeError(VolumeFault.MISSING, f"task {task_id!r} is over")
        told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        unit.gate.tell(event, told.set_result)
        if not await told:
            raise VolumeError(VolumeFault.AWAY, f"node {node} has not answered")


def end_nexus(target: IscsiTarget, event: EndNexus) -> None:
    """Do what an operator wants of the node that ``event`` is about, if it is this one."""
    nexus = event.nexus
    if nexus.port == target.bus.port:
        target.end_nexus(nexus.initiator, nexus.isid, event.target, LOGOUT_SECONDS)


def _port(nexus: NexusName | None) -> str:
    """An initiator port, and the target port that it uses."""
    if nexus is None:
        return ""
    return f"{nexus.initiator},i,0x{nexus.isid.hex()} at port {nexus.port}"
