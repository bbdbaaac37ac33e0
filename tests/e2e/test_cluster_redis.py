"""Two nodes and a Redis that restarts, forgets, stops, is slow, fails over, or is not just one.

Each time commands are told BUSY in the meantime and no longer, what was acknowledged is there, and
all goes on by itself.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import cdb
from tests.support.initiator import Initiator, LoginRefused
from tests.support.iscsi_socket import Disconnected, NoAnswer
from tests.support.lunmesh_server import LunmeshServer, free_port
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.redis_server import RedisServer
from tests.support.redis_setups import RedisCluster, SentinelSetup, TlsRedis
from tests.support.slow_relay import SlowRelay

LEASE, WAIT = 1.0, 1.0  # seconds
RECOVERY_SECONDS = 60
BLOCK = 512
GOOD, BUSY = 0x00, 0x08


class DiskPath:
    """A disk through one node: a session that is begun anew when it breaks."""

    def __init__(self, node: LunmeshServer, number: int) -> None:
        self._node = node
        self._isid = b"\x80lun\0" + bytes((number,))
        self._session: Initiator | None = None
        self.busy = 0  # how often it was told to try again
        self.sessions = 0

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _connected(self) -> Initiator:
        if self._session is None:
            node = self._node
            session = Initiator(
                node.host, node.port, target=node.iqn, isid=self._isid, timeout=RECOVERY_SECONDS
            )
            try:
                session.login()
            except BaseException:
                session.close()
                raise
            self._session = session
            self.sessions += 1
        return self._session

    def once(self, command: bytes, data_out: bytes = b"", read_length: int = 0) -> bytes | None:
        """What was read; None: it has not been answered with GOOD."""
        try:
            task = self._connected().command(command, data_out=data_out, read_length=read_length)
        except (Disconnected, NoAnswer, LoginRefused, OSError):
            self.close()
            return None
        self.busy += task.status == BUSY
        return bytes(task.data_in) if task.status == GOOD else None

    def _until_good(self, command: bytes, data_out: bytes = b"", read_length: int = 0) -> bytes:
        deadline = time.monotonic() + RECOVERY_SECONDS
        while (found := self.once(command, data_out, read_length)) is None:
            assert time.monotonic() < deadline, "it does not go on"
        return found

    def write(self, lba: int, value: int) -> None:
        self._until_good(cdb.write10(lba, 1), bytes((value,)) * BLOCK)

    def read(self, lba: int) -> int:
        (value,) = set(self._until_good(cdb.read10(lba, 1), read_length=BLOCK))
        return value


@contextlib.contextmanager
def two_nodes(folder: Path, urls: Sequence[str]) -> Iterator[tuple[DiskPath, DiskPath]]:
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(LunmeshWorker(folder / "worker"))
        paths = []
        for number, url in enumerate(urls):
            server = LunmeshServer(
                folder / f"node{number}",
                ["disk0=16M"],
                arguments=[
                    *("--redis", url, "--node-id", f"n{number}", "--worker", worker.address),
                    *("--lease", str(LEASE), "--cluster-wait", str(WAIT)),
                ],
            )
            stack.enter_context(server)
            path = DiskPath(server, number)
            stack.callback(path.close)
            paths.append(path)
        one, two = paths
        yield one, two


def check(one: DiskPath, two: DiskPath, value: int) -> None:
    """What one writes the other reads and replaces, at the same time as well."""
    one.write(0, value)
    assert two.read(0) == value
    two.write(0, value + 1)
    assert one.read(0) == value + 1
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda path: [path.write(7, value) for _ in range(20)], (one, two)))
    assert one.read(7) == two.read(7) == value


@pytest.fixture
def redis(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    durable = bool(getattr(request, "param", True))
    with RedisServer(tmp_path / "redis", port=free_port(), durable=durable) as server:
        yield server


def test_it_restarts_and_knows_everything(tmp_path: Path, redis: RedisServer) -> None:
    with two_nodes(tmp_path, [redis.url] * 2) as (one, two):
        check(one, two, 1)
        redis.restart()
        assert one.read(0) == two.read(0) == 2
        check(one, two, 3)
        assert one.sessions == two.sessions == 1, "nobody was shut out"


@pytest.mark.parametrize("redis", [False], indirect=True)
def test_it_restarts_and_knows_nothing(tmp_path: Path, redis: RedisServer) -> None:
    """Nodes begin a new life, behind what their last one was about to write."""
    with two_nodes(tmp_path, [redis.url] * 2) as (one, two):
        check(one, two, 1)
        redis.restart()
        check(one, two, 3)


@pytest.mark.parametrize("stopped", [False, True], ids=["killed", "stopped"])
def test_it_is_away(tmp_path: Path, redis: RedisServer, stopped: bool) -> None:
    """For longer than a lease, and than a command waits."""
    with two_nodes(tmp_path, [redis.url] * 2) as (one, two):
        check(one, two, 1)
        if stopped:
            redis.signal(signal.SIGSTOP)
        else:
            redis.kill()
        try:
            until = time.monotonic() + 4 * LEASE
            while time.monotonic() < until:
                assert one.once(cdb.write10(0, 1), bytes(BLOCK)) is None
            assert one.busy >= 2
        finally:
            if stopped:
                redis.signal(signal.SIGCONT)
            else:
                redis.start()
        check(one, two, 5)
        assert one.sessions == two.sessions == 1, "nobody was shut out"


def test_it_is_slow(tmp_path: Path, redis: RedisServer) -> None:
    with (
        SlowRelay(redis.port, 0.05) as relay,
        two_nodes(tmp_path, [f"redis://127.0.0.1:{relay.port}", redis.url]) as (one, two),
    ):
        check(one, two, 1)
        assert one.busy == two.busy == 0
        assert one.sessions == two.sessions == 1


def test_a_replica_takes_over(tmp_path: Path) -> None:
    with (
        SentinelSetup(tmp_path / "redis") as sentinel,
        two_nodes(tmp_path, [sentinel.url] * 2) as (one, two),
    ):
        check(one, two, 1)
        sentinel.primary.kill()
        check(one, two, 3)
        assert sentinel.primary_port() == sentinel.replica.port


def test_a_replica_that_has_forgotten_everything_takes_over(tmp_path: Path) -> None:
    with (
        SentinelSetup(tmp_path / "redis") as sentinel,
        two_nodes(tmp_path, [sentinel.url] * 2) as (one, two),
    ):
        check(one, two, 1)
        sentinel.primary.signal(signal.SIGSTOP)
        sentinel.forget()
        check(one, two, 3)


def test_a_redis_cluster(tmp_path: Path) -> None:
    with (
        RedisCluster(tmp_path / "redis") as cluster,
        two_nodes(tmp_path, [cluster.url] * 2) as (one, two),
    ):
        check(one, two, 1)


def test_tls_and_an_acl_user(tmp_path: Path) -> None:
    with (
        TlsRedis(tmp_path / "redis") as redis,
        two_nodes(tmp_path, [redis.url] * 2) as (one, two),
    ):
        check(one, two, 1)


def test_a_node_alone_asks_no_redis(tmp_path: Path) -> None:
    """Whatever is in the environment of those that do."""
    with LunmeshServer(tmp_path, ["disk0=16M"]) as server:
        path = DiskPath(server, 1)
        path.write(0, 1)
        assert path.read(0) == 1
        path.close()
