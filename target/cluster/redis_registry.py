"""The registry in Redis: each call is a function of ``lunmesh.lua``.

The library's name has a version: nodes of two versions load theirs side by side.  Keys are in
docs/cluster.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from importlib import resources
from typing import Any, Final

from target.cluster.redis_link import Log, RedisLink
from target.cluster.redis_listener import RedisListener
from target.cluster.registry import (
    ARRIVED,
    Attached,
    Attachment,
    Event,
    Joined,
    KnownTask,
    Member,
    Notices,
    Registry,
    Renewed,
    TaskEntry,
)

LIBRARY: Final = "lunmesh.lua"
PREFIX: Final = "lunmesh_1_"
MEMBERS: Final = [
    "lunmesh:{lunmesh}:members",
    "lunmesh:{lunmesh}:epochs",
    "lunmesh:{lunmesh}:fences",
    "lunmesh:{lunmesh}:numbers",
    "lunmesh:{lunmesh}:due",
    "lunmesh:{lunmesh}:changes",
]
OF_UNIT: Final = ("meta", "writes", "reads", "blocked", "events")


def keys_of(lun: str) -> list[str]:
    """The keys of a unit, in the order in which the functions take them."""
    return [f"lunmesh:{{{lun}}}:{what}" for what in OF_UNIT]


def document_key(lun: str, key: str) -> str:
    """Where a document of a unit is."""
    return f"lunmesh:{{{lun}}}:doc:{key}"


def _parse(found: list[Any]) -> list[Member]:
    return [
        Member(name.decode(), epoch, number, left, reaper.decode().strip("-"), info.decode())
        for name, epoch, number, left, reaper, info in found
    ]


def _names(found: list[bytes]) -> list[str]:
    return [name.decode() for name in found]


def _source() -> str:
    return resources.files("target.cluster").joinpath(LIBRARY).read_text("ascii")


async def epochs_over(url: str, log: Log) -> dict[str, int]:
    """Of each node that there ever was, the highest epoch that is over.  Raises RegistryAway."""
    link = RedisLink(url, _source(), log)
    try:
        found = await link.call(PREFIX + "over", MEMBERS, [])
    finally:
        await link.close()
    return {node.decode(): epoch for node, epoch in found if epoch}


class RedisRegistry(Registry):
    """``notices`` hears what concerns ``node``."""

    def __init__(self, url: str, node: str, notices: Notices, log: Log) -> None:
        self.link = RedisLink(url, _source(), log)
        self._node_channel = f"lunmesh:node:{node}"
        self._notices = notices
        self._listener = RedisListener(self.link.client, self._heard, notices.renewed)
        self._keys: dict[str, list[str]] = {}

    async def start(self) -> None:
        """Listen."""
        await self._listener.subscribe(self._node_channel)
        self._listener.start()

    async def close(self) -> None:
        """Hang up."""
        await self._listener.close()
        await self.link.close()

    def _heard(self, channel: str, data: bytes) -> None:
        """A message of lunmesh.lua; what cannot be understood is of another version."""
        with contextlib.suppress(ValueError):
            kind, _, rest = data.partition(b" ")
            if kind == b"g":
                lun, sequence = rest.decode("ascii").split(" ")
                self._notices.granted(lun, int(sequence))
                return
            lun = channel.removeprefix("lunmesh:lun:")
            if kind == b"e":
                number, node, payload = rest.split(b" ", 2)
                self._notices.happened(lun, Event(int(number), node.decode(), payload))
            elif kind == b"a":
                name, done = rest.decode().split(" ")
                self._notices.acknowledged(lun, name, int(done))
            elif kind == b"d":
                self._notices.departed(lun, rest.decode())

    async def _members(self, function: str, *args: Any) -> Any:
        return await self.link.call(PREFIX + function, MEMBERS, list(args))

    async def _unit(self, function: str, lun: str, *args: Any) -> Any:
        keys = self._keys.get(lun)
        if keys is None:
            keys = self._keys[lun] = keys_of(lun)
        return await self.link.call(PREFIX + function, keys, list(args))

    # --- members ----------------------------------------------------------------------------------

    async def join(self, node: str, floor: int, lease_ms: int, info: str) -> Joined:
        epoch, number = await self._members("join", node, floor, lease_ms, info)
        return Joined(epoch, number)

    async def renew(self, node: str, epoch: int, lease_ms: int, known: int) -> Renewed:
        change, whole, changed, gone, due = await self._members(
            "renew", node, epoch, lease_ms, known
        )
        return Renewed(change, bool(whole), _parse(changed), _names(gone), _names(due))

    async def members(self) -> list[Member]:
        return _parse(await self._members("members"))

    async def leave(self, node: str, epoch: int) -> None:
        await self._members("leave", node, epoch)

    async def claim(self, node: str, epoch: int, victim: Member, claim_ms: int) -> bool:
        return bool(await self._members("claim", node, epoch, victim.node, victim.epoch, claim_ms))

    async def reaped(self, node: str, epoch: int, victim: str, victim_epoch: int) -> None:
        await self._members("reaped", node, epoch, victim, victim_epoch)

    # --- one logical unit -------------------------------------------------------------------------

    async def attach(self, lun: str, node: str, epoch: int) -> Attached:
        await self._listener.subscribe(f"lunmesh:lun:{lun}")
        event, behind, alone = await self._unit("attach", lun, node, epoch, ARRIVED)
        return Attached(event, behind, alone.decode())

    async def alone(self, lun: str, node: str, epoch: int, wanted: bool) -> bool:
        return bool(await self._unit("alone", lun, node, epoch, 1 if wanted else 0))

    async def detach(self, lun: str, node: str, epoch: int) -> None:
        await self._unit("detach", lun, node, epoch)
        await self._listener.unsubscribe(f"lunmesh:lun:{lun}")
        self._keys.pop(lun, None)

    async def submit(
        self,
        lun: str,
        node: str,
        epoch: int,
        settled: Sequence[int],
        entries: Sequence[TaskEntry],
    ) -> list[int]:
        args: list[Any] = [node, epoch, len(settled), *settled]
        for sequence, exclusive, start, end, info in entries:
            args += (sequence, 1 if exclusive else 0, start, end, info)
        return list(await self._unit("submit", lun, *args))

    async def waiting(self, lun: str, node: str, epoch: int) -> list[int]:
        return list(await self._unit("waiting", lun, node, epoch))

    async def fence(self, lun: str, node: str, epoch: int, victim: str, victim_epoch: int) -> None:
        await self._unit("fence", lun, node, epoch, victim, victim_epoch)

    async def post(self, lun: str, node: str, epoch: int, payload: bytes) -> int:
        return int(await self._unit("post", lun, node, epoch, payload))

    async def events(self, lun: str, node: str, epoch: int, after: int) -> list[Event]:
        found = await self._unit("events", lun, node, epoch, after)
        events = []
        for number, text in zip(found[::2], found[1::2], strict=True):
            who, _, payload = text.partition(b" ")
            events.append(Event(number, who.decode(), payload))
        return events

    async def acknowledge(self, lun: str, node: str, epoch: int, number: int) -> None:
        await self._unit("acknowledge", lun, node, epoch, number)

    async def attached(self, lun: str) -> dict[str, Attachment]:
        found = await self._unit("attached", lun)
        return {node.decode(): Attachment(epoch, at) for node, epoch, at in found}

    async def load(self, lun: str, key: str) -> tuple[int, bytes]:
        version, document = await self.link.execute(
            "HMGET", document_key(lun, key), "version", "document"
        )
        return (0, b"") if version is None else (int(version), document)

    async def replace(
        self, lun: str, node: str, epoch: int, key: str, version: int, document: bytes
    ) -> bool:
        keys = [*keys_of(lun), document_key(lun, key)]
        args = [node, epoch, version, document]
        return bool(await self.link.call(PREFIX + "replace", keys, args))

    async def tasks(self, lun: str, most: int) -> list[KnownTask]:
        _, writes, reads, blocked, _ = keys_of(lun)
        waits = set(await self.link.execute("HKEYS", blocked))
        found: list[KnownTask] = []
        for key, exclusive in ((writes, True), (reads, False)):
            fields = await self.link.execute("HGETALL", key)
            if isinstance(fields, list):
                fields = dict(zip(fields[::2], fields[1::2], strict=True))
            for field, value in list(fields.items())[: most - len(found)]:
                node, epoch, sequence = field.decode().split(" ")
                info = value.decode().split(" ", 2)[2]
                found.append(
                    KnownTask(node, int(epoch), int(sequence), exclusive, field in waits, info)
                )
        return found
