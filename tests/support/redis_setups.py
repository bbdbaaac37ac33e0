"""Redis as it is run for real: with replicas and a sentinel, as a cluster, with TLS and users.

Each is a context manager; ``url`` is what `--redis` takes.  Nothing here depends on pytest.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from tests.support.certificates import make_authority, make_certificate
from tests.support.lunmesh_server import free_port
from tests.support.redis_server import RedisProcessError, RedisServer

SETUP_SECONDS = 60
SERVICE = "lunmesh"
USER, PASSWORD = "lunmesh", "a-password"
# As docs/cluster.md has it.
MAY = "~lunmesh:* &lunmesh:* +@read +@write +@connection +@pubsub +@scripting +time"
ACL = f"{USER} on >{PASSWORD} {MAY}"


class _Setup:
    """What it started ends with it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._stack = contextlib.ExitStack()

    def _start(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._stack = stack
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._stack.close()


def _until(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SETUP_SECONDS
    while True:
        with contextlib.suppress(redis.RedisError):
            if condition():
                return
        if time.monotonic() > deadline:
            raise RedisProcessError(what)
        time.sleep(0.02)


class SentinelSetup(_Setup):
    """A primary, a replica, and a sentinel that makes it the primary when that is away."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.primary = RedisServer(folder / "primary", port=free_port(), durable=True)
        self.replica = RedisServer(
            folder / "replica",
            port=free_port(),
            durable=True,
            arguments=["--replicaof", "127.0.0.1", str(self.primary.port)],
        )
        self._port = free_port()
        self.url = f"redis+sentinel://127.0.0.1:{self._port}/{SERVICE}"

    def _start(self) -> None:
        self._stack.enter_context(self.primary)
        self._stack.enter_context(self.replica)
        config = self._folder / "sentinel.conf"
        config.write_text(
            f"bind 127.0.0.1\nport {self._port}\ndir {self._folder}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.primary.port} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} 1000\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )
        program = shutil.which("redis-server")
        assert program is not None, "the others run"
        with (self._folder / "sentinel.log").open("ab") as log:
            process = subprocess.Popen(
                [program, str(config), "--sentinel"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        _until("the sentinel does not see the replica", self._complete)

    def _ask(self, *command: str) -> object:
        with redis.Redis(port=self._port) as client:
            return client.execute_command(*command)

    def _complete(self) -> bool:
        with self.replica.client() as client:
            info = client.info("replication")
        assert isinstance(info, dict)
        seen = self._ask("SENTINEL", "REPLICAS", SERVICE)
        return info["master_link_status"] == "up" and bool(seen)

    def primary_port(self) -> int:
        """Of whoever the sentinel says is the primary."""
        found = self._ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        assert isinstance(found, list | tuple)
        return int(found[1])

    def forget(self) -> None:
        """Once the replica is the primary, it loses everything."""

        def promoted() -> bool:
            with self.replica.client() as client:
                role = client.execute_command("ROLE")
            return self.primary_port() == self.replica.port and role[0] == b"master"

        _until("the replica does not take over", promoted)
        with self.replica.client() as client:
            client.flushall()
            client.function_flush()


class RedisCluster(_Setup):
    """Three primaries that have the slots among them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._servers = [
            RedisServer(
                folder / f"redis{number}",
                port=free_port(),
                durable=True,
                arguments=[
                    *("--cluster-enabled", "yes", "--cluster-port", str(free_port())),
                    *("--cluster-node-timeout", "2000"),
                ],
            )
            for number in range(3)
        ]
        self._addresses = [f"127.0.0.1:{server.port}" for server in self._servers]
        self.url = f"redis+cluster://{','.join(self._addresses)}"

    def _start(self) -> None:
        for server in self._servers:
            self._stack.enter_context(server)
        command = ["redis-cli", "--cluster", "create", *self._addresses, "--cluster-yes"]
        subprocess.run(command, check=True, capture_output=True, timeout=SETUP_SECONDS)
        _until("the cluster is not complete", lambda: all(map(self._complete, self._servers)))

    def _complete(self, server: RedisServer) -> bool:
        with server.client() as client:
            return b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO", NEVER_DECODE=1)


class TlsRedis(_Setup):
    """TLS only, with a certificate of a private authority; one user, who may do what is needed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        authority = make_authority(folder, "authority")
        certificate, key = make_certificate(folder, authority, "redis")
        port = free_port()
        self._server = RedisServer(
            folder / "redis",
            arguments=[
                *("--tls-port", str(port), "--tls-auth-clients", "no"),
                *("--tls-cert-file", str(certificate), "--tls-key-file", str(key)),
                *("--tls-ca-cert-file", str(authority)),
                *("--user", *ACL.split()),
                *("--user", "default", "off"),
            ],
        )
        self.url = f"rediss://{USER}:{PASSWORD}@127.0.0.1:{port}?ssl_ca_certs={authority}"

    def _start(self) -> None:
        self._stack.enter_context(self._server)
