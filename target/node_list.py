"""The nodes of a cluster, as initiators are told of them: target ports, groups and portals.

Rules:

1. A node that is gone is remembered for ``FORGET_SECONDS``: it may be about to start again, and an
   initiator that asks meanwhile must not lose the way to it (open-iscsi forgets what a discovery
   does not show).
2. Nodes that call the target by another name are no other way to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from target.cluster.registry import Member

FORGET_SECONDS: Final = 3600.0


class MemberInfo(msgspec.Struct, frozen=True):
    """What a node says of itself to the others."""

    portals: list[str]  # as SendTargets has them
    iqn: str = ""  # of the target


@dataclass(frozen=True, slots=True)
class ListedNode:
    """A node that is there, or was."""

    member: Member
    info: MemberInfo
    alive: bool
    seen_at: float


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

    def other_portals(self) -> list[tuple[int, list[str]]]:
        """By portal group tag, where the other nodes can be reached."""
        own = self._nodes.get(self._own)
        return [
            (it.member.number, it.info.portals)
            for name, it in sorted(self._nodes.items())
            if name != self._own and own is not None and it.info.iqn == own.info.iqn
        ]

    def names_of_others(self) -> dict[str, str]:
        """By node, what it calls the target."""
        return {name: it.info.iqn for name, it in self._nodes.items() if name != self._own}


def decode_info(info: str) -> MemberInfo:
    """What a node has said; nothing, if that is of another version."""
    try:
        return msgspec.json.decode(info, type=MemberInfo)
    except msgspec.MsgspecError:
        return MemberInfo([])
