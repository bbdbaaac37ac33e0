"""The nodes of a cluster, as initiators are told of them: target ports, groups and portals.

Rules:

1. A node that is gone is remembered for ``FORGET_SECONDS``: it may be about to start again, and an
   initiator that asks meanwhile must not lose the way to it (open-iscsi forgets what a discovery
   does not show).
2. Nodes that call the target by another name are no other way to it.
3. Several processes behind the same portals (``--processes``) are nodes with a tag each. An address
   is told with the tag of the process that will serve the initiator which asks, and to an initiator
   of a sibling not again: it must not be in two portal groups.
4. Nor is an address told for nodes that are gone, if one that is there has it now: a node that has
   become several processes, say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from target.cluster.registry import Member
from target.config.model import ProcessPlace
from target.rendezvous import process_of

FORGET_SECONDS: Final = 3600.0


class MemberInfo(msgspec.Struct, frozen=True):
    """What a node says of itself to the others."""

    portals: list[str]  # as SendTargets has them
    iqn: str = ""  # of the target
    place: ProcessPlace | None = None  # None: nobody else is behind these portals
    groups: dict[str, str] = {}  # the labels of those portals that have one


@dataclass(frozen=True, slots=True)
class ListedNode:
    """A node that is there, or was."""

    member: Member
    info: MemberInfo
    alive: bool
    seen_at: float

    @property
    def group(self) -> tuple[str, bool]:
        """Nodes behind the same portals have the same one, others another."""
        place = self.info.place
        return (place.group, True) if place is not None else (self.member.node, False)


class NodeList:
    """The nodes that the node ``own`` has seen, itself among them."""

    def __init__(self, own: str, clock: Callable[[], float]) -> None:
        self.changed: Callable[[], None] = lambda: None  # a node is gone, or has come back
        self._own = own
        self._clock = clock
        self._nodes: dict[str, ListedNode] = {}

    def update(self, members: Iterable[Member]) -> None:
        """Those that are there now, as of a renewal."""
        now = self._clock()
        there = {
            member.node: ListedNode(member, decode_info(member.info), not member.reaper, now)
            for member in members
        }
        for name, it in self._nodes.items():
            if name not in there and now - it.seen_at < FORGET_SECONDS:
                there[name] = ListedNode(it.member, it.info, False, it.seen_at)
        before, self._nodes = self._nodes, there
        if any(it.alive != there[name].alive for name, it in before.items() if name in there):
            self.changed()

    def live_ports(self) -> list[int]:
        """The relative target ports of nodes that are there."""
        return [it.member.number for it in self._nodes.values() if it.alive]

    def gone_ports(self) -> list[int]:
        """Those of nodes that were."""
        return [it.member.number for it in self._nodes.values() if not it.alive]

    def other_portals(self, initiator: str) -> list[tuple[int, list[tuple[str, str]]]]:
        """By portal group tag, where ``initiator`` can reach the other nodes, with labels."""
        own = self._nodes.get(self._own)
        if own is None:
            return []
        groups: dict[tuple[str, bool], list[ListedNode]] = {}
        for _, it in sorted(self._nodes.items()):
            if it.group != own.group and it.info.iqn == own.info.iqn:
                groups.setdefault(it.group, []).append(it)
        held = {portal for it in self._nodes.values() if it.alive for portal in it.info.portals}
        told = []
        for group in groups.values():
            it = _serving(group, initiator)
            left = not any(other.alive for other in group)
            labels = it.info.groups
            portals = [  # rule 4
                (one, labels.get(one, "")) for one in it.info.portals if not (left and one in held)
            ]
            if portals:
                told.append((it.member.number, portals))
        return told

    def names_of_others(self) -> dict[str, str]:
        """By node, what it calls the target."""
        return {name: it.info.iqn for name, it in self._nodes.items() if name != self._own}


def _serving(group: Sequence[ListedNode], initiator: str) -> ListedNode:
    """Rule 3: the one of ``group`` that an initiator gets to; one that is there, if it is not."""
    newest = max(group, key=lambda it: (it.alive, it.seen_at))
    place = newest.info.place
    if place is not None:
        number = process_of(initiator, place.count)
        for it in group:
            if it.info.place is not None and it.info.place.number == number:
                return it
    return newest


def decode_info(info: str) -> MemberInfo:
    """What a node has said; nothing, if that is of another version."""
    try:
        return msgspec.json.decode(info, type=MemberInfo)
    except msgspec.MsgspecError:
        return MemberInfo([])
