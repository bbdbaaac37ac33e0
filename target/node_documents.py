"""What each node writes down for the others to read, in a unit of its own of the registry.

Rules:

1. A node writes under a key of its own: what that costs does not grow with the number of nodes.
2. What is written counts for that life of the node.  Who reads asks for the members first.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from target.cluster.node import ClusterNode
from target.cluster.registry import Member, RegistryAway, StaleNode

ASKED_AT_ONCE: Final = 50


class Written(Protocol):
    """A msgspec.Struct."""

    @property
    def epoch(self) -> int:
        """Of the life that has written it."""


T = TypeVar("T", bound=Written)


class NodeDocuments(Generic[T]):
    """Of each node the document ``key`` of its unit ``TITLE.NODE``, a ``kind``.

    No unit of a volume has a dot in its name.
    """

    def __init__(self, node: ClusterNode, title: str, key: str, kind: type[T]) -> None:
        self._node = node
        self._title = title
        self._key = key
        self._kind = kind
        self._unit = self._unit_of(node.id)
        self._attached = False
        self._version = 0  # that this node knows of its own

    def _unit_of(self, node: str) -> str:
        return f"{self._title}.{node}"

    async def write(self, document: T) -> None:
        """Raises RegistryAway or StaleNode."""
        node, registry, unit = self._node, self._node.registry, self._unit
        if not self._attached:
            while behind := (await registry.attach(unit, node.id, node.epoch)).behind:
                await registry.fence(unit, node.id, node.epoch, node.id, behind)  # our last life
            self._attached = True
        encoded = msgspec.json.encode(document)
        while not await registry.replace(
            unit, node.id, node.epoch, self._key, self._version, encoded
        ):
            self._version, _ = await registry.load(unit, self._key)
        self._version += 1

    async def others(self) -> list[tuple[str, T | None]]:
        """What the other nodes have written, if anything, by node.  Raises RegistryAway."""
        members = [it for it in await self._node.registry.members() if it.node != self._node.id]
        found: list[tuple[str, T | None]] = []
        members.sort()
        for at in range(0, len(members), ASKED_AT_ONCE):
            some = members[at : at + ASKED_AT_ONCE]
            documents = await asyncio.gather(*map(self._of, some))
            found += zip([member.node for member in some], documents, strict=True)
        return found

    async def _of(self, member: Member) -> T | None:
        """Rule 2."""
        version, encoded = await self._node.registry.load(self._unit_of(member.node), self._key)
        with contextlib.suppress(msgspec.MsgspecError):  # of another version
            document = msgspec.json.decode(encoded, type=self._kind) if version else None
            if document is not None and document.epoch == member.epoch:
                return document
        return None

    async def close(self, last: T | None = None) -> None:
        """The node ends; ``last`` is what stays of what it has written, None: as it is."""
        if self._attached:
            node = self._node
            with contextlib.suppress(RegistryAway, StaleNode):  # its epoch is over as well
                if last is not None:
                    await self.write(last)
                await node.registry.detach(self._unit, node.id, node.epoch)
