"""What stands between this product and redis-py (target/cluster/redis_link.py)."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest
import structlog

from target.cluster.ending import ended
from target.cluster.redis_link import ANSWER_SECONDS, RedisLink, _Wire
from target.cluster.redis_listener import RedisListener
from target.cluster.redis_registry import RedisRegistry
from target.cluster.registry import RegistryAway
from tests.support.lunmesh_server import free_port
from tests.support.redis_server import RedisServer
from tests.support.registry_worlds import Heard, write
from tests.support.relay import Relay
from tests.support.skipping_loop import run_skipping
from tests.support.until import until


def test_a_task_whose_cancellation_was_swallowed_is_ended_all_the_same() -> None:
    async def main() -> None:
        never, swallowed, began = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def work() -> None:
            try:
                began.set()
                await never.wait()
            except asyncio.CancelledError:
                swallowed.set()
            await never.wait()

        task = asyncio.ensure_future(work())
        await began.wait()
        async with asyncio.timeout(30):
            await ended(task)
        assert swallowed.is_set()
        assert task.cancelled()

    asyncio.run(main())


def _stumbles(*args: Any, **kwargs: Any) -> Any:
    async def work() -> Any:
        raise RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed")

    return work()


class _Stumbling:
    """A connection of redis-py that is reset while it is set up, as uvloop tells it."""

    connect = disconnect = _stumbles


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "redis+cluster://127.0.0.1:1"])
def test_what_redis_py_stumbles_over_is_a_redis_that_is_away(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        link = RedisLink(url, "", structlog.get_logger())
        if url.startswith("redis+cluster"):
            monkeypatch.setattr(link.client, "execute_command", _stumbles)
        else:
            pool: Any = link.client.connection_pool  # type: ignore[union-attr]
            monkeypatch.setattr(pool, "make_connection", _Stumbling)
        for call in (link.execute("PING"), link._load()):
            with pytest.raises(RegistryAway, match="RuntimeError"):
                await call
        await link.close()

    asyncio.run(main())


def test_who_listens_begins_again_whatever_redis_py_stumbled_over(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        link = RedisLink(redis.url, "", structlog.get_logger())
        heard = asyncio.Event()
        listener = RedisListener(link, lambda *_: None, heard.set, structlog.get_logger())
        whole, stumbled = link.client.pubsub, asyncio.Event()

        def first(**options: Any) -> Any:
            pubsub = whole(**options)
            if not stumbled.is_set():
                monkeypatch.setattr(pubsub, "get_message", _stumbles)
                stumbled.set()
            return pubsub

        monkeypatch.setattr(link.client, "pubsub", first)
        await listener.subscribe("channel")
        listener.start()
        async with asyncio.timeout(30):
            await heard.wait()
        assert stumbled.is_set()
        await listener.close()
        await link.close()

    asyncio.run(main())


class _Played(asyncio.Transport):
    """Nothing is on the other side but the test."""

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Who sends here."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """It is gone."""

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        """It has ended."""


@pytest.mark.parametrize("asked_at", [0.0, 1.0, 2.9])
def test_who_is_asked_and_is_silent_is_given_up_after_the_time_that_an_answer_has(
    asked_at: float,
) -> None:
    """Whatever was asked and answered before."""

    async def main() -> None:
        time = asyncio.get_running_loop().time
        wire = _Wire(_Played())
        before = wire.ask(("PING",))
        await asyncio.sleep(asked_at)
        wire.data_received(b"+PONG\r\n")
        assert await before == b"PONG"
        silent = wire.ask(("PING",))
        began = time()
        with pytest.raises(EOFError):
            await silent
        assert time() - began == pytest.approx(ANSWER_SECONDS)

    run_skipping(main())


def test_what_a_connection_that_was_given_up_had_sent_is_not_done_later(tmp_path: Path) -> None:
    """The network delivers it when the node has asked again elsewhere, and gone on."""

    async def main(redis: RedisServer, relay: Relay) -> None:
        lun, log = uuid.uuid4().hex, structlog.get_logger()
        url = f"redis://{relay.host}:{relay.port}"
        node = RedisRegistry(url, "a", Heard(), log)
        await node.attach(lun, "a", 1)
        relay.hold_present()
        sent = len(relay.from_initiator)
        call = asyncio.ensure_future(node.submit(lun, "a", 1, (), [write(1, 0, 8)]))
        await asyncio.to_thread(until, lambda: len(relay.from_initiator) > sent)
        node.link._lost()
        with pytest.raises(RegistryAway):
            await call
        assert await node.submit(lun, "a", 1, (), [write(1, 0, 8)]) == []
        await node.submit(lun, "a", 1, (1,), [])
        executed = _calls(redis)
        relay.release()
        await asyncio.to_thread(until, lambda: _calls(redis) > executed)
        assert (await node.sizes(lun)).writes == 0
        await node.close()

    with (
        RedisServer(tmp_path, port=free_port()) as redis,
        Relay("127.0.0.1", redis.port) as relay,
    ):
        asyncio.run(main(redis, relay))


def _calls(redis: RedisServer) -> int:
    """That Redis has executed."""
    with redis.client() as client:
        count: int = client.info("commandstats")["cmdstat_fcall"]["calls"]
    return count
