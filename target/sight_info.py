"""What is told of what happens: nodes, sessions, commands in flight."""

from __future__ import annotations

from typing import Final

import msgspec

TASKS_MAX: Final = 1000  # in one answer


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A node of the cluster; a node without Redis is the only one."""

    id: str
    epoch: int
    number: int  # of its target port and portal group
    state: str  # "alone", "serving", "silent" (its lease is over) or "shut out"
    lease_seconds_left: float | None  # None: it needs none
    portals: list[str]
    here: bool  # the one that was asked
    behind: dict[str, str] = {}  # what of the catalog it has not followed yet, and why


class SessionWindow(msgspec.Struct, frozen=True, kw_only=True):
    """What a session may send, and its share of the pool of buffers."""

    credits: int  # commands that it may have here at once
    outstanding: int  # those of them that have come and not ended
    reserved_bytes: int  # set aside for what may come with them
    reserved_used_bytes: int
    held_bytes: int  # beside those: of reads, and of writes that were asked for
    limit_bytes: int  # of them


class SessionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A session of an initiator, on any node; discovery aside."""

    id: str  # for `lunmesh session show` and `drop`
    node: str
    tsih: int
    initiator: str
    isid: str  # hexadecimal
    target: str
    address: str
    user: str  # of CHAP; empty: no proof was asked for
    commands: int | None  # that have not ended; null: of another node than the one that was asked
    header_digest: bool  # CRC32C
    data_digest: bool
    window: SessionWindow | None = None  # null: of another node than the one that was asked


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

    sessions: list[SessionInfo]  # those of the node that was asked first
    more: bool  # there are more than these
    others: bool  # those of other nodes are among them


class TaskList(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/tasks"""

    tasks: list[TaskInfo]  # oldest first
    total: int  # commands that fit the filter
    known: int  # without a filter
    next: str  # the cursor for what follows these; empty: nothing does
    others: bool  # those of other nodes are among them, all of them
