"""What happens in this node, and in the others as far as all know of it.

Commands of this node are told as they are here; those of others as the registry has them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from target.cluster.registry import KnownTask, RegistryAway
from target.iscsi.target import IscsiTarget
from target.scsi.bus import SCSIBus
from target.scsi.logical_unit import LogicalUnit
from target.scsi.lun import LunAddress
from target.scsi.request import SCSIRequest, State, print_request
from target.scsi.reservations.names import NexusName
from target.scsi.unit_events import EndTask
from target.sight_info import NodeInfo, ReservationInfo, SessionInfo, TaskInfo, TaskList
from target.volume_errors import VolumeError, VolumeFault

if TYPE_CHECKING:
    from target.clustering import Clustering

TASKS_MAX: Final = 1000  # in one answer


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
        self._clock = clock
        self._wall = wall

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
                )
            )
        return sorted(found, key=lambda node: node.id)

    def sessions(self) -> list[SessionInfo]:
        """The sessions of this node, by TSIH; discovery aside."""
        return [
            SessionInfo(
                node=self._id,
                tsih=session.tsih,
                initiator=session.initiator,
                isid=session.isid.hex(),
                target=self._name_of(session.nexus.target),
                address=channel.peer,
                commands=len(session.tasks),
                header_digest=session.parameters.header_digest,
                data_digest=session.parameters.data_digest,
            )
            for session, channel in sorted(self._target.channels.items(), key=lambda s: s[0].tsih)
            if session.nexus is not None and session.parameters is not None
        ]

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

    async def tasks(self) -> TaskList:
        """The commands that have not ended, the oldest first."""
        found = [
            self._own(unit, req) for unit in self._bus.units.values() for req in unit.tasks_of()
        ]
        others = False
        if self._clustering is not None:
            try:
                found += await self._of_others(self._clustering)
                others = True
            except RegistryAway:
                pass  # what is known here is told all the same
        found.sort(key=lambda task: -task.age_seconds)
        return TaskList(tasks=found[:TASKS_MAX], more=len(found) > TASKS_MAX, others=others)

    def _own(self, unit: LogicalUnit, req: SCSIRequest) -> TaskInfo:
        nexus = req.attachment.nexus
        isid = nexus.isid.hex()
        return TaskInfo(
            id=_id(self._id, unit.address, req.tag, nexus.initiator, isid),
            node=self._id,
            target=self._name_of(unit.address.target),
            lun=req.attachment.number,
            initiator=nexus.initiator,
            isid=isid,
            tag=req.tag,
            state=State(req.state).name.lower(),
            age_seconds=round(self._clock() - req.started_at, 3),
            request=print_request(req),
        )

    async def _of_others(self, clustering: Clustering) -> list[TaskInfo]:
        found: list[TaskInfo] = []
        for lun, unit in clustering.units():
            for known in await clustering.node.registry.tasks(lun, TASKS_MAX + 1):
                if known.node != self._id and len(found) <= TASKS_MAX:
                    found.append(self._known(unit, known))
        return found

    def _known(self, unit: LogicalUnit, known: KnownTask) -> TaskInfo:
        initiator, isid, lun, tag, began, cdb = known.info.split(" ")
        name = unit.command_for(bytes.fromhex(cdb)).name
        return TaskInfo(
            id=_id(known.node, unit.address, int(tag, 16), initiator, isid),
            node=known.node,
            target=self._name_of(unit.address.target),
            lun=int(lun),
            initiator=initiator,
            isid=isid,
            tag=int(tag, 16),
            state="blocked" if known.blocked else "running",
            age_seconds=round(self._wall() - float(began), 3),
            request=f"{name} lun={lun} tag=0x{tag} cdb={cdb}",
        )

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
        if unit.gate is None:
            raise VolumeError(VolumeFault.MISSING, f"no node {node!r} here")
        told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        unit.gate.tell(event, told.set_result)
        if not await told:
            raise VolumeError(VolumeFault.AWAY, f"node {node} has not answered")


def _port(nexus: NexusName | None) -> str:
    """An initiator port, and the target port that it uses."""
    if nexus is None:
        return ""
    return f"{nexus.initiator},i,0x{nexus.isid.hex()} at port {nexus.port}"


def _id(node: str, address: LunAddress, tag: int, initiator: str, isid: str) -> str:
    return f"{node}/{address}/{tag:x}/{initiator},i,0x{isid}"
