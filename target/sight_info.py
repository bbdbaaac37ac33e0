"""What is told of what happens: nodes, sessions, commands in flight."""

from __future__ import annotations

import msgspec


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A node of the cluster; a node without Redis is the only one."""

    id: str
    epoch: int
    number: int  # of its target port and portal group
    state: str  # "alone", "serving", "silent" (its lease is over) or "shut out"
    lease_seconds_left: float | None  # None: it needs none
    portals: list[str]
    here: bool  # the one that was asked


class SessionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A session of the node that was asked."""

    node: str
    tsih: int
    initiator: str
    isid: str  # hexadecimal
    target: str
    address: str
    commands: int  # that have not ended
    header_digest: bool  # CRC32C
    data_digest: bool


class TaskInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A command that has not ended."""

    id: str  # for `lunmesh task abort`
    node: str
    target: str
    lun: int  # as the initiator knows it, at this node
    initiator: str
    isid: str  # hexadecimal
    tag: int  # initiator task tag
    state: str
    age_seconds: float
    request: str  # printed


class ReservationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The reservations and registrations of a logical unit that has any."""

    target: str
    lun: int
    generation: int  # PRGENERATION
    type: str  # of the persistent reservation; empty: there is none
    holder: str  # of it, or of RESERVE; empty: nobody, or all registrants
    registered: list[str]  # initiator ports; keys are not told
    aptpl: bool  # kept through a loss of power


class ReservationList(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/reservations"""

    reservations: list[ReservationInfo]


class NodeList(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/nodes"""

    nodes: list[NodeInfo]


class SessionList(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/sessions"""

    sessions: list[SessionInfo]


class TaskList(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/tasks"""

    tasks: list[TaskInfo]  # oldest first
    more: bool  # there are more than these
    others: bool  # those of other nodes are among them
