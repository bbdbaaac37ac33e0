"""What the functions of ``target/cluster/lunmesh.lua`` cost a real Redis, and what it keeps.

Rules of measuring:

1. The cost of a call is CPU time of the process ``redis-server``, reading and answering included:
   Redis has one thread for commands, so one shard does 1 / cost a second.  It is the same whether
   the caller is fast or slow.
2. ``CONNECTIONS`` nodes call, each on a connection of its own and with one call under way, as
   nodes do (``cluster/lun.py``, rule 2).
3. A write registers what begins and forgets what has ended, so what is kept does not grow.
"""

from __future__ import annotations

import itertools
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Self

import hiredis
import msgspec

from target.cluster.redis_registry import KNOWN, MEMBERS, PREFIX, SOURCE, document_key, keys_of
from target.datadir import VolumeRecord, WorkerPlace
from target.shared_catalog import Catalog
from tests.bench.procstat import cpu_seconds
from tests.support.redis_server import RedisServer

CONNECTIONS = 32
ROUNDS = 3
RECEIVE_BYTES = 1 << 20
LEASE_MS = 3_600_000
WRITES_OF_OTHERS = 32  # in flight, for each other node on the LUN
BLOCKS = 8  # of a write
WORKERS_OF_VOLUME = 4
LONG_CALLS = 0.2  # part of a round: who reads megabytes takes longer than Redis
# As lun.py describes a command: initiator, ISID, LUN, tag, when it began, CDB.
_CALLS = itertools.count(1)
INFO = "iqn.1993-08.org.debian:01:5a3fe9b62c1 00023d000001 12 1a2b 1763899200.123 " + "2a" * 10


@dataclass(frozen=True)
class Cost:
    """Of one call."""

    seconds: float  # CPU time of Redis
    lowest: float  # of the rounds
    highest: float

    @property
    def per_second(self) -> float:
        """Calls that one shard can do."""
        return 1 / self.seconds


class Caller:
    """Connections to one Redis, used in turns: a call on each, then the answer of each."""

    def __init__(self, redis: RedisServer, connections: int) -> None:
        self._sockets = [socket.socket(socket.AF_UNIX) for _ in range(connections)]
        self._readers = [hiredis.Reader() for _ in range(connections)]
        for one in self._sockets:
            one.connect(str(redis.socket_path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for one in self._sockets:
            one.close()

    def call(self, commands: list[bytes]) -> list[Any]:
        """One packed command for each connection; their answers.  Raises hiredis.ReplyError."""
        for one, command in zip(self._sockets, commands, strict=True):
            one.sendall(command)
        return [self.answer(number) for number in range(len(commands))]

    def answer(self, number: int) -> Any:
        """The next answer or message on a connection."""
        reader = self._readers[number]
        while (answer := reader.gets()) is False:
            data = self._sockets[number].recv(RECEIVE_BYTES)
            if not data:
                raise EOFError("Redis has hung up")
            reader.feed(data)
        if isinstance(answer, Exception):
            raise answer
        return answer


def fcall(function: str, keys: list[str], *args: Any) -> bytes:
    """A call of lunmesh.lua, packed."""
    return packed("FCALL", PREFIX + function, len(keys), *keys, *args)


def of_unit(function: str, keys: list[str], node: str, *args: Any) -> bytes:
    """A call of that node for a unit, in its first epoch; each has a number of its own."""
    return fcall(function, keys, node, 1, next(_CALLS), 0, 0, *args)


def packed(*command: Any) -> bytes:
    """A command as Redis reads it."""
    found: bytes = hiredis.pack_command(command)
    return found


def load_library(redis: RedisServer) -> None:
    """Forget everything, and have the functions."""
    with redis.client() as client:
        client.flushall()
        client.function_load(SOURCE, replace=True)


def writes(first: int, count: int) -> list[Any]:
    """Arguments of ``submit`` for entries from sequence ``first`` on, each at blocks of its own."""
    args: list[Any] = []
    for sequence in range(first, first + count):
        start = sequence % (1 << 20) * BLOCKS
        args += (sequence, 1, start, start + BLOCKS, INFO)
    return args


def catalog_of(volumes: int) -> bytes:
    """The document of all nodes, with so many volumes on four workers each."""
    return msgspec.json.encode(
        Catalog(
            id=uuid.UUID(int=0).hex,
            volumes={
                f"volume-{number}": VolumeRecord(
                    uuid=str(uuid.UUID(int=number)),
                    block_bytes=512,
                    chunk_bytes=4 << 20,
                    size_bytes=1 << 40,
                    lun=number,
                    shared=True,
                    workers=[
                        WorkerPlace(
                            key=uuid.UUID(int=place).hex,
                            address=f"10.0.0.{place}:3270",
                            created=True,
                        )
                        for place in range(WORKERS_OF_VOLUME)
                    ],
                )
                for number in range(volumes)
            },
        )
    )


class RegistryCost:
    """Each method measures one function on an empty Redis.

    ``seconds``: how much CPU time of Redis a round has to take at least.
    """

    def __init__(self, redis: RedisServer, seconds: float) -> None:
        self._redis = redis
        self._seconds = seconds

    @contextmanager
    def _caller(self, connections: int = CONNECTIONS) -> Iterator[Caller]:
        load_library(self._redis)
        with Caller(self._redis, connections) as caller:
            yield caller

    def _measure(self, step: Callable[[int], int], part: float = 1.0) -> Cost:
        """``step(turn)`` does some calls, and says how many; the first one is not counted.

        ``part`` of the time is enough for them.
        """
        pids, turn, found = (self._redis.pid,), 1, []
        step(0)
        for _ in range(ROUNDS):
            began, calls = cpu_seconds(pids), 0
            while (took := cpu_seconds(pids) - began) < part * self._seconds:
                for _ in range(8):
                    calls += step(turn)
                    turn += 1
            found.append(took / calls)
        return Cost(median(found), min(found), max(found))

    def submit(self, batch: int, others: int) -> Cost:
        """``batch`` writes begin and as many have ended; ``others`` nodes have writes there."""
        with self._caller() as caller:
            luns = [keys_of(f"lun{number}") for number in range(CONNECTIONS)]
            caller.call([of_unit("attach", keys, "n") for keys in luns])
            for other in range(others):
                entries = writes((other + 1) * (1 << 19) // 8, WRITES_OF_OTHERS)
                caller.call([of_unit("attach", keys, f"o{other}") for keys in luns])
                caller.call([of_unit("submit", keys, f"o{other}", 0, *entries) for keys in luns])

            def step(turn: int) -> int:
                # Twice the batch and no more: blocks of others are never reached.
                first, before = turn % 2 * batch + 1, (turn + 1) % 2 * batch + 1
                settled = range(before, before + batch) if turn else ()
                args = (len(settled), *settled, *writes(first, batch))
                answers = caller.call([of_unit("submit", keys, "n", *args) for keys in luns])
                assert not any(answers), "nobody waits here"
                return len(answers)

            return self._measure(step)

    def renew(self, members: int) -> Cost:
        """A lease, with so many members and none that comes or goes."""
        with self._caller() as caller:
            info = '{"portals":["10.0.0.11:3260","192.168.100.11:3260"]}'
            names = [f"node-{number}" for number in range(members)]
            with self._redis.client() as client:
                for name in names:
                    client.fcall(
                        f"{PREFIX}join", len(MEMBERS), *MEMBERS, name, 0, LEASE_MS, info, 0, *KNOWN
                    )

            def step(turn: int) -> int:
                who = [names[(turn * CONNECTIONS + n) % members] for n in range(CONNECTIONS)]
                caller.call(
                    [
                        fcall("renew", MEMBERS, name, 1, members, 0, next(_CALLS), LEASE_MS)
                        for name in who
                    ]
                )
                return CONNECTIONS

            return self._measure(step)

    def event(self, nodes: int) -> Cost:
        """An event that all ``nodes`` of a LUN hear, do and acknowledge."""
        count = max(1, CONNECTIONS // nodes)
        with ExitStack() as stack:
            caller = stack.enter_context(self._caller(count * nodes))
            listener = stack.enter_context(Caller(self._redis, count * nodes))
            where = [(f"lun{n // nodes}", f"n{n}") for n in range(count * nodes)]
            tells = [n % nodes == 0 for n in range(count * nodes)]
            caller.call([of_unit("attach", keys_of(lun), node) for lun, node in where])
            for channel in ("lunmesh:lun:{}", "lunmesh:node:{1}"):
                listener.call([packed("SUBSCRIBE", channel.format(*who)) for who in where])
            nothing = packed("PING")

            def step(turn: int) -> int:
                posted = caller.call(
                    [
                        of_unit("post", keys_of(lun), node, b"reset 29 03") if first else nothing
                        for (lun, node), first in zip(where, tells, strict=True)
                    ]
                )
                numbers = [posted[n // nodes * nodes] for n in range(count * nodes)]
                caller.call(
                    [
                        of_unit("acknowledge", keys_of(lun), node, number)
                        for (lun, node), number in zip(where, numbers, strict=True)
                    ]
                )
                for number, first in enumerate(tells):
                    for _ in range(1 + nodes if first else 1):
                        listener.answer(number)
                return count

            return self._measure(step)

    def catalog(self, document: bytes, nodes: int) -> Cost:
        """All ``nodes`` read ``document`` once, as after a change of the catalog."""
        with self._caller(1) as caller:
            key = document_key("catalog", "volumes")
            caller.call([packed("HSET", key, "version", 1, "document", document)])
            load = packed("HMGET", key, "version", "document")

            def step(turn: int) -> int:
                caller.call([load])
                return 1

            one = self._measure(step, LONG_CALLS)
        return Cost(*(nodes * seconds for seconds in (one.seconds, one.lowest, one.highest)))


@dataclass(frozen=True)
class Kept:
    """Memory of Redis."""

    entries: int
    luns: int
    bytes_per_entry: float


def memory(redis: RedisServer, entries: int, luns: int) -> Kept:
    """What ``entries`` commands in flight take, spread over ``luns``."""
    load_library(redis)
    with redis.client() as client:
        each = entries // luns
        for number in range(luns):
            keys = keys_of(f"lun{number}")
            client.fcall(f"{PREFIX}attach", len(keys), *keys, "n", 1, next(_CALLS), 0, 0)
        before = client.info("memory")["used_memory"]
        for number in range(luns):
            keys = keys_of(f"lun{number}")
            for first in range(1, each + 1, 1000):
                args = writes(first, min(1000, each + 1 - first))
                proof = (next(_CALLS), 0, 0)
                client.fcall(f"{PREFIX}submit", len(keys), *keys, "n", 1, *proof, 0, *args)
        taken = client.info("memory")["used_memory"] - before
    return Kept(entries, luns, taken / (each * luns))
