"""What Redis has to say unasked: one subscription of a node, kept up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

from target.cluster.ending import ended
from target.cluster.redis_link import (
    ANSWER_SECONDS,
    AWAY,
    RETRY_SECONDS,
    Log,
    RedisLink,
    closed,
)

PING_SECONDS: Final = 2.0  # a connection that is silent for so long is asked


class RedisListener:
    """Messages of some channels.

    ``on_subscribed`` is called whenever channels begin to be heard, again or for the first time:
    what was said before may have been missed.
    """

    def __init__(
        self,
        link: RedisLink,
        on_message: Callable[[str, bytes], None],
        on_subscribed: Callable[[], None],
        log: Log,
    ) -> None:
        self._link = link
        self._log = log
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._channels: set[str] = set()
        self._pubsub: Any = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen until ``close``."""
        self._task = asyncio.ensure_future(self._run())

    async def subscribe(self, channel: str) -> None:
        """Hear ``channel`` as well, as soon as Redis is there."""
        self._channels.add(channel)
        if self._pubsub is not None:
            with contextlib.suppress(*AWAY):
                await self._link.from_redis_py(self._pubsub.subscribe(channel))

    async def unsubscribe(self, channel: str) -> None:
        """Hear it no more."""
        self._channels.discard(channel)
        if self._pubsub is not None:
            with contextlib.suppress(*AWAY):
                await self._link.from_redis_py(self._pubsub.unsubscribe(channel))

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except AWAY:
                pass
            except Exception as exc:  # a bug of ours: a node that hears nothing is no better
                self._log.error("internal error", reason=repr(exc))
            await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self) -> None:
        # What one node of a Redis Cluster is told, all say.
        pubsub: Any = self._link.client.pubsub()
        try:
            subscribed: set[str] = set()
            while news := self._channels - subscribed:  # more may come while it connects
                await self._link.from_redis_py(pubsub.subscribe(*news))
                subscribed |= news
            self._pubsub = pubsub
            asked = False
            while True:
                seconds = ANSWER_SECONDS if asked else PING_SECONDS
                message = await self._link.from_redis_py(pubsub.get_message(timeout=seconds))
                if message is None and asked:
                    return
                asked = message is None
                if message is None:
                    await self._link.from_redis_py(pubsub.ping())
                elif message["type"] == "subscribe":
                    self._on_subscribed()
                elif message["type"] == "message":
                    self._on_message(message["channel"].decode(), message["data"])
        finally:
            self._pubsub = None
            await closed(pubsub)

    async def close(self) -> None:
        """Listen no more."""
        await ended(self._task)
