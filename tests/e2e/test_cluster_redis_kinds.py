"""Two nodes over each kind of Redis: TLS and a user with few rights, Sentinel, Redis Cluster."""

from __future__ import annotations

import contextlib
import subprocess
from functools import partial
from pathlib import Path

from tests.support.certificates import make_authority, make_certificate
from tests.support.incrementers import Incrementers
from tests.support.lunmesh_server import free_port
from tests.support.node_cluster import NodeCluster
from tests.support.redis_server import RedisServer
from tests.support.sentinel import SERVICE, sentinel_of, until_known, until_primary
from tests.support.until import until

OPTIONS = ("--lease", "2", "--cluster-wait", "1")
USER, PASSWORD = "lunmesh", "a/b:c"
PASSWORD_IN_URL = "a%2Fb%3Ac"
RIGHTS = (  # as docs/cluster.md has them
    "~lunmesh:* &lunmesh:* -@all"
    " +@hash +@sortedset +@pubsub +@connection +fcall +function|load +time"
)
HOST = "127.0.0.1"
WAIT_SECONDS = 30


def cluster_of(folder: Path, url: str, redis: RedisServer) -> NodeCluster:
    return NodeCluster(folder, ["disk0=16M"], workers=1, arguments=OPTIONS, redis=redis, url=url)


def test_tls_with_a_private_authority_and_a_user_with_few_rights(tmp_path: Path) -> None:
    authority = make_authority(tmp_path, "ca")
    certificate, key = make_certificate(tmp_path, authority, "redis")
    port = free_port()
    server = RedisServer(
        tmp_path / "redis",
        user=(USER, PASSWORD),
        arguments=[
            *("--tls-port", str(port), "--tls-auth-clients", "no"),
            *("--tls-cert-file", str(certificate), "--tls-key-file", str(key)),
            *("--tls-ca-cert-file", str(authority), "--user", "default", "off"),
            *("--user", USER, "on", f">{PASSWORD}", *RIGHTS.split()),
        ],
    )
    url = f"rediss://{USER}:{PASSWORD_IN_URL}@{HOST}:{port}?ssl_ca_certs={authority}"
    with server as redis, cluster_of(tmp_path, url, redis) as cluster:
        with Incrementers(cluster.nodes) as counting:
            counting.all_go_on()
            redis.restart()  # the library is gone as well
            counting.all_go_on()
        counting.check()
        assert PASSWORD not in cluster.nodes[0].stderr()


def test_sentinels_that_name_another_primary(tmp_path: Path) -> None:
    primary, replica = (free_port() for _ in range(2))
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(RedisServer(tmp_path / "redis", port=primary))
        second = RedisServer(
            tmp_path / "replica", port=replica, arguments=["--replicaof", HOST, str(primary)]
        )
        stack.enter_context(second)
        sentinel = stack.enter_context(sentinel_of(tmp_path / "sentinel", primary))
        url = f"redis+sentinel://{HOST}:{sentinel}/{SERVICE}"
        with cluster_of(tmp_path, url, first) as cluster:
            with Incrementers(cluster.nodes) as counting:
                counting.all_go_on()
                until_known(sentinel, second)
                first.kill()
                until_primary(second)
                counting.all_go_on()
            counting.check()


def test_a_redis_cluster(tmp_path: Path) -> None:
    """The keys of disk, catalog and members are on three servers."""
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(
                RedisServer(tmp_path / f"redis{n}", port=free_port(), arguments=cluster_flags())
            )
            for n in range(3)
        ]
        addresses = [f"{HOST}:{server.port}" for server in servers]
        subprocess.run(
            ["redis-cli", "--cluster", "create", *addresses, "--cluster-yes"],
            check=True,
            capture_output=True,
            timeout=WAIT_SECONDS,
        )
        for server in servers:
            until(partial(covers_all, server))
        url = f"redis+cluster://{','.join(addresses)}"
        with cluster_of(tmp_path, url, servers[0]) as cluster:
            with Incrementers(cluster.nodes) as counting:
                counting.all_go_on()
            counting.check()


def cluster_flags() -> list[str]:
    return [
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        "2000",
        "--cluster-port",
        str(free_port()),
    ]


def covers_all(server: RedisServer) -> bool:
    with server.client() as client:
        return bool(client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
