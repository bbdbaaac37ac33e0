"""Starts the processes, listens for them, and ends them.

Rules:

1. Portals are taken first, and listened on when all processes serve: then it is ready.
2. A process that cannot start ends everything, with its exit status; it has said why itself.
3. At the end the processes have the time that they take by their own bounds, and a little more
   (``GRACE_SECONDS``); who is there still is killed.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from target.config.model import Portal, ProcessPlace, ServeConfig
from target.identity import ID_BYTES, keep_epoch, last_epoch
from target.iscsi.listener import at_portal, bind
from target.logs import Log
from target.processes.child import Child
from target.processes.front import Front

GRACE_SECONDS: Final = 30.0


class Supervisor:
    """Of ``config.processes`` processes; needs a running loop."""

    def __init__(self, config: ServeConfig, log: Log) -> None:
        self._config = config
        self._log = log
        self._news = asyncio.Event()
        self._children: list[Child] = []

    async def run(self, stop: asyncio.Event, say: Callable[[str], None]) -> int:
        """Serve until ``stop``; the exit status.  ``say`` is told once, when all serve.

        Raises DataDirError or OSError.
        """
        config = self._config
        group = _group_name(config)
        bound: list[socket.socket] = []
        try:
            for portal in config.portals:
                with at_portal(portal):
                    bound.append(bind(portal.host, portal.port))
            portals = tuple(it.bound(sock) for it, sock in zip(config.portals, bound, strict=True))
            configs = process_configs(config, group, portals)
            self._children = [
                Child(place.name, each, self._log, self._news.set)
                for place, each in configs.items()
            ]
            return await self._run(stop, say, bound)
        finally:
            for each in bound:
                each.close()

    async def _run(
        self, stop: asyncio.Event, say: Callable[[str], None], bound: Sequence[socket.socket]
    ) -> int:
        children = self._children
        front = Front(children)
        kept = [asyncio.ensure_future(child.keep()) for child in children]
        asked = asyncio.ensure_future(stop.wait())
        asked.add_done_callback(lambda _: self._news.set())
        try:
            while not stop.is_set() and (status := self._failed()) is None:
                if all(child.ready is not None for child in children):
                    self._listen(front, bound)
                    say(children[0].ready or "")
                    await stop.wait()
                self._news.clear()
                if not stop.is_set():
                    await self._news.wait()
            return 0 if stop.is_set() else status or 0
        finally:
            asked.cancel()
            front.close()
            await self._end(kept)

    def _listen(self, front: Front, bound: Sequence[socket.socket]) -> None:
        # Somebody else may have listened there since they were taken.
        with at_portal(", ".join(map(str, self._config.portals))):
            front.listen(bound)

    def _failed(self) -> int | None:
        """Rule 2: the exit status of a process that never was ready."""
        found = [child.status for child in self._children if child.status is not None]
        return found[0] if found else None

    async def _end(self, kept: Sequence[asyncio.Future[None]]) -> None:
        """Rule 3."""
        for child in self._children:
            child.stop()
        config = self._config
        bound = 2 * config.shutdown_timeout_seconds + config.worker_timeout_seconds + GRACE_SECONDS
        _, late = await asyncio.wait(kept, timeout=bound)
        if late:
            self._log.error("processes do not end and are killed", processes=len(late))
            self.kill()
        await asyncio.gather(*kept)

    def kill(self) -> None:
        """End the processes at once."""
        for child in self._children:
            child.kill()


def process_configs(
    config: ServeConfig, group: str, portals: tuple[Portal, ...]
) -> dict[ProcessPlace, ServeConfig]:
    """What each process is told: an id, a data directory and ports of its own."""
    assert config.cluster is not None, "checked (target/config/processes.py)"
    count = config.processes
    places = [
        ProcessPlace(group=group, number=number, count=count) for number in range(1, count + 1)
    ]
    return {
        place: msgspec.structs.replace(
            config,
            processes=1,
            data_dir=config.data_dir / f"process-{place.number}",
            portals=portals,
            admin=_nth(config.admin, place.number),
            metrics=_nth(config.metrics, place.number),
            notes=(),
            cluster=msgspec.structs.replace(config.cluster, node_id=place.name, place=place),
        )
        for place in places
    }


def _nth(first: Portal | None, number: int) -> Portal | None:
    """Of the addresses from ``first`` on, the one of process ``number``."""
    if first is None:
        return None
    return Portal(first.host, first.port + number - 1 if first.port else 0)


def _group_name(config: ServeConfig) -> str:
    """``--node-id``, or one that the data directory keeps.  Raises DataDirError or OSError."""
    assert config.cluster is not None, "checked"
    if config.cluster.node_id is not None:
        return config.cluster.node_id
    config.data_dir.mkdir(parents=True, exist_ok=True)
    kept = last_epoch(config.data_dir, os.urandom(ID_BYTES).hex())
    if kept.epoch == 0:
        keep_epoch(config.data_dir, kept)
    return kept.id
