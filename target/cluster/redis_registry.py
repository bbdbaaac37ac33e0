"""The registry in Redis: each call is a function of ``lunmesh.lua``.

The library has a digest of its source in its name, and so have its functions: nodes of two versions
load theirs side by side, and none runs another one's.  Keys are in docs/cluster.md.

All that is there is of one format, which is in Redis as well.  A node that joins says which ones it
knows: it is refused if that one is not among them, and when all members know a newer one, it rises
(docs/decisions/0031-formats-in-redis.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from importlib import resources
from typing import Any, Final, NamedTuple

from target.cluster.redis_link import Log, RedisLink
from target.cluster.redis_listener import RedisListener
from target.cluster.registry import (
    ARRIVED,
    Attached,
    Attachment,
    Event,
    Joined,
    KnownTask,
    LateCall,
    Member,
    Notices,
    Proofs,
    Registry,
    RegistryAway,
    Renewed,
    Sizes,
    StaleNode,
    TaskEntry,
)

FILE: Final = "lunmesh.lua"
DIGEST_DIGITS: Final = 12


class Formats(NamedTuple):
    """Those of what is in Redis that a version can work with."""

    oldest: int  # 0: from before it had one
    newest: int


KNOWN: Final = Formats(oldest=0, newest=2)
NUMBERS: Final = "lunmesh:{lunmesh}:numbers"
MEMBERS: Final = [
    "lunmesh:{lunmesh}:members",
    "lunmesh:{lunmesh}:epochs",
    "lunmesh:{lunmesh}:fences",
    NUMBERS,
    "lunmesh:{lunmesh}:due",
    "lunmesh:{lunmesh}:changes",
    "lunmesh:{lunmesh}:beats",
    "lunmesh:{lunmesh}:formats",
]
ALL: Final = ""  # what is known of the members, in Proofs
PAGE: Final = ("COUNT", 128)  # of a hash, in one answer: neither side is held up by a long one
OF_UNIT: Final = ("meta", "writes", "reads", "blocked", "events")
DOCUMENTS: Final = ("reservations", "settings")  # of a unit that is a volume


def library() -> tuple[str, str]:
    """Its name and its source; the name, ``_`` and that of a call are the name of its function."""
    source = resources.files("target.cluster").joinpath(FILE).read_text("ascii")
    digest = hashlib.sha256(source.encode("ascii")).hexdigest()[:DIGEST_DIGITS]
    name = f"lunmesh_{digest}"
    return name, source.replace("lunmesh_VERSION", name)


NAME, SOURCE = library()
PREFIX: Final = f"{NAME}_"


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


def _pairs(found: Any) -> dict[bytes, bytes]:
    """A hash; RESP 2 has it as a list."""
    return dict(zip(found[::2], found[1::2], strict=True)) if isinstance(found, list) else found


def _names(found: list[bytes]) -> list[str]:
    return [name.decode() for name in found]


async def epochs_over(url: str, log: Log) -> dict[str, int]:
    """Of each node that there ever was, the highest epoch that is over.

    Raises RegistryAway or WrongFormat.
    """
    link = RedisLink(url, SOURCE, log)
    try:
        found = await link.call(PREFIX + "over", MEMBERS, [*KNOWN])
    finally:
        await link.close()
    return {node.decode(): epoch for node, epoch in found if epoch}


class RedisRegistry(Registry):
    """``notices`` hears what concerns ``node``."""

    def __init__(
        self, url: str, node: str, notices: Notices, log: Log, formats: Formats = KNOWN
    ) -> None:
        self._formats = formats
        self._proofs = Proofs()
        self._life: tuple[str, int] | None = None  # node and epoch
        self.link = RedisLink(url, SOURCE, log, self._greeting)
        self._node_channel = f"lunmesh:node:{node}"
        self._notices = notices
        self._listener = RedisListener(self.link, self._heard, notices.renewed, log)
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
            if kind == b"u":
                self._notices.unheard(rest.decode("ascii"))
                return
            lun = channel.removeprefix("lunmesh:lun:")
            if kind == b"e":
                number, node, payload = rest.split(b" ", 2)
                self._proofs.heard(lun, int(number))
                self._notices.happened(lun, Event(int(number), node.decode(), payload))
            elif kind == b"a":
                *at, name, done = rest.decode().split(" ")  # with the unit, if it is for us alone
                self._notices.acknowledged(at[0] if at else lun, name, int(done))
            elif kind == b"d":
                name, _, epoch = rest.decode().partition(" ")  # none: of an older version
                self._notices.departed(lun, name, int(epoch or 0))

    async def _members(self, function: str, *args: Any) -> Any:
        return await self.link.call(PREFIX + function, MEMBERS, list(args))

    def _greeting(self) -> tuple[Any, ...] | None:
        """A Redis that has just been reached is asked whether it has what this node knows of it."""
        if self._life is None:
            return None
        known = self._proofs.last(ALL)
        args = (*self._life, known.heard, known.answered)
        return ("FCALL", PREFIX + "greet", len(MEMBERS), *MEMBERS, *args)

    async def _of_nobody(self, *args: Any) -> Any:
        """A command on which no life of a node stands (rule 2)."""
        try:
            return await self.link.execute(*args)
        except StaleNode as exc:  # the greeting was refused
            raise RegistryAway(str(exc)) from exc

    async def _unit(
        self, function: str, lun: str, node: str, epoch: int, *args: Any, document: str = ""
    ) -> Any:
        keys = self._keys.get(lun)
        if keys is None:
            keys = self._keys[lun] = keys_of(lun)
        if document:
            keys = [*keys, document_key(lun, document)]
        while True:
            proof = self._proofs.next(lun)
            try:
                answer = await self.link.call(PREFIX + function, keys, [node, epoch, *proof, *args])
            except LateCall:  # another one was faster, on its own connection
                continue
            self._proofs.answered(lun, proof)
            return answer

    # --- members ----------------------------------------------------------------------------------

    async def join(
        self, node: str, floor: int, lease_ms: int, info: str, number: int = 0
    ) -> Joined:
        joined = await self._members("join", node, floor, lease_ms, info, number, *self._formats)
        self._proofs.forget(ALL)
        self._life = None
        return Joined(*joined)

    async def renew(self, node: str, epoch: int, lease_ms: int, known: int) -> Renewed:
        proof = self._proofs.next(ALL)
        change, whole, changed, gone, due = await self._members(
            "renew", node, epoch, known, proof.answered, proof.call, lease_ms
        )
        self._proofs.answered(ALL, proof)
        self._proofs.heard(ALL, change)
        self._life = node, epoch
        return Renewed(change, bool(whole), _parse(changed), _names(gone), _names(due))

    async def members(self) -> list[Member]:
        return _parse(await self._of_nobody("FCALL", PREFIX + "members", len(MEMBERS), *MEMBERS))

    async def numbers(self) -> dict[str, int]:
        found = _pairs(await self._of_nobody("HGETALL", NUMBERS))
        return {node.decode(): int(number) for node, number in found.items()}

    async def leave(self, node: str, epoch: int) -> None:
        await self._members("leave", node, epoch)
        self._life = None

    async def claim(self, node: str, epoch: int, victim: Member, claim_ms: int) -> bool:
        return bool(await self._members("claim", node, epoch, victim.node, victim.epoch, claim_ms))

    async def reaped(self, node: str, epoch: int, victim: str, victim_epoch: int) -> None:
        await self._members("reaped", node, epoch, victim, victim_epoch)

    # --- one logical unit -------------------------------------------------------------------------

    async def attach(self, lun: str, node: str, epoch: int) -> Attached:
        await self._listener.subscribe(f"lunmesh:lun:{lun}")
        event, behind, alone = await self._unit("attach", lun, node, epoch, ARRIVED)
        self._proofs.heard(lun, event)
        return Attached(event, behind, alone.decode())

    async def alone(self, lun: str, node: str, epoch: int, wanted: bool) -> bool:
        return bool(await self._unit("alone", lun, node, epoch, 1 if wanted else 0))

    async def detach(self, lun: str, node: str, epoch: int) -> None:
        await self._unit("detach", lun, node, epoch)
        await self._listener.unsubscribe(f"lunmesh:lun:{lun}")
        self._keys.pop(lun, None)
        self._proofs.forget(lun)

    async def submit(
        self,
        lun: str,
        node: str,
        epoch: int,
        settled: Sequence[int],
        entries: Sequence[TaskEntry],
    ) -> list[int]:
        args: list[Any] = [len(settled), *settled]
        for sequence, exclusive, start, end, info in entries:
            args += (sequence, 1 if exclusive else 0, start, end, info)
        return list(await self._unit("submit", lun, node, epoch, *args))

    async def waiting(self, lun: str, node: str, epoch: int) -> list[int]:
        return list(await self._unit("waiting", lun, node, epoch))

    async def fence(self, lun: str, node: str, epoch: int, victim: str, victim_epoch: int) -> None:
        await self._unit("fence", lun, node, epoch, victim, victim_epoch)

    async def writes_of(self, lun: str, node: str, epoch: int) -> list[tuple[int, int, int]]:
        keys = keys_of(lun)
        args = ("FCALL", PREFIX + "writes_of", len(keys), *keys, node, epoch)
        return [(number, start, end) for number, start, end in await self._of_nobody(*args)]

    async def settle(
        self,
        lun: str,
        node: str,
        epoch: int,
        victim: str,
        victim_epoch: int,
        settled: Sequence[int],
    ) -> None:
        await self._unit("settle", lun, node, epoch, victim, victim_epoch, *settled)

    async def post(self, lun: str, node: str, epoch: int, payload: bytes) -> int:
        return int(await self._unit("post", lun, node, epoch, payload))

    async def events(self, lun: str, node: str, epoch: int, after: int) -> list[Event]:
        found = await self._unit("events", lun, node, epoch, after)
        events = []
        for number, text in zip(found[::2], found[1::2], strict=True):
            who, _, payload = text.partition(b" ")
            self._proofs.heard(lun, number)
            events.append(Event(number, who.decode(), payload))
        return events

    async def acknowledge(self, lun: str, node: str, epoch: int, number: int) -> None:
        await self._unit("acknowledge", lun, node, epoch, number)

    async def attached(self, lun: str) -> dict[str, Attachment]:
        keys = keys_of(lun)
        found = await self._of_nobody("FCALL", PREFIX + "attached", len(keys), *keys)
        return {node.decode(): Attachment(epoch, at) for node, epoch, at in found}

    async def load(self, lun: str, key: str) -> tuple[int, bytes]:
        version, document = await self._of_nobody(
            "HMGET", document_key(lun, key), "version", "document"
        )
        return (0, b"") if version is None else (int(version), document)

    async def replace(
        self,
        lun: str,
        node: str,
        epoch: int,
        key: str,
        version: int,
        document: bytes,
        becomes: int = 0,
    ) -> bool:
        args = (version, document, becomes or version + 1)
        return bool(await self._unit("replace", lun, node, epoch, *args, document=key))

    async def drop_unit(self, lun: str) -> None:
        keys = [*keys_of(lun), *(document_key(lun, key) for key in DOCUMENTS)]
        await self._of_nobody("FCALL", PREFIX + "drop_unit", len(keys), *keys)

    async def tasks(self, lun: str) -> AsyncIterator[list[KnownTask]]:
        _, writes, reads, blocked, _ = keys_of(lun)
        left: dict[str, Any] = {writes: 0, reads: 0}  # and where to go on
        while left:
            scans = [self._of_nobody("HSCAN", key, at, *PAGE) for key, at in left.items()]
            for key, (at, fields) in zip(list(left), await asyncio.gather(*scans), strict=True):
                if int(at):
                    left[key] = at
                else:
                    del left[key]
                if fields := _pairs(fields):
                    waits = await self._of_nobody("HMGET", blocked, *fields)
                    yield [
                        _known(field.decode(), key == writes, wait is not None, value.decode())
                        for (field, value), wait in zip(fields.items(), waits, strict=True)
                    ]

    async def sizes(self, lun: str) -> Sizes:
        keys = keys_of(lun)
        return Sizes(*await self._of_nobody("FCALL", PREFIX + "sizes", len(keys), *keys))


def _known(who: str, exclusive: bool, blocked: bool, value: str) -> KnownTask:
    node, epoch, sequence = who.split(" ")
    info = value.split(" ", 2)[2]
    return KnownTask(node, int(epoch), int(sequence), exclusive, blocked, info)
