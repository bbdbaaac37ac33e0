"""The options of a node that is one of several."""

from __future__ import annotations

from pathlib import Path

import pytest

from target.config import ConfigError, Options, load_serve_config
from target.config.model import ClusterConfig, ServeConfig
from target.config.options import WorkerOptions
from target.config.worker import load_worker_config


def load(**options: object) -> ServeConfig:
    return load_serve_config(Options(**options))  # type: ignore[arg-type]


def test_a_node_is_alone_by_default() -> None:
    assert load().cluster is None


def test_all_of_them() -> None:
    url = "rediss://alice:hush@redis:6380/0"
    config = load(redis=url, worker=["w:1"], node_id="node-1", lease=4.0, cluster_wait=2.5)
    assert config.cluster == ClusterConfig(
        url=url, node_id="node-1", lease_seconds=4, wait_seconds=2.5
    )
    assert "hush" not in repr(config)


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:hush?hush@h:1",  # a query, to urlsplit
        "redis://u:hush?hush=1@h:1",
        "redis://u:1/hush@h:1",
        "redis://u:1#hush@h:1",
        "redis://u:hush[hush]@h:1",
        "redis://u:hush\u2100hush@h:1",  # to NFKC it has a slash in it
    ],
)
def test_a_password_that_is_not_escaped_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(redis=url, worker=["w:1"])
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize("url", ["redis://:hush@h", "redis+sentinel://a:hush@h,i:1/main"])
def test_a_password_behind_the_flag_is_warned_of(url: str) -> None:
    note = "the password behind --redis shows in the process list: use LUNMESH_REDIS"
    assert note in load(redis=url, worker=["w:1"]).notes
    worker = WorkerOptions(listen="127.0.0.1:1", store="memory:", redis=url)
    assert note in load_worker_config(worker).notes
    for options, environ in (
        (Options(worker=["w:1"]), {"LUNMESH_REDIS": url}),
        (Options(worker=["w:1"], redis="redis://a@h"), {}),
    ):
        assert note not in load_serve_config(options, environ=environ).notes


def test_a_file_may_have_an_at_sign_in_its_name(tmp_path: Path) -> None:
    file = tmp_path / "ca@home.pem"
    file.touch()
    assert load(redis=f"rediss://h?ssl_ca_certs={file}", worker=["w:1"]).cluster is not None


def test_the_url_may_come_from_the_environment() -> None:
    flags = Options(worker=["w:1"])
    config = load_serve_config(flags, environ={"LUNMESH_REDIS": "redis://r"})
    assert config.cluster == ClusterConfig(
        url="redis://r", node_id=None, lease_seconds=5, wait_seconds=5
    )


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://h:1/0",
        "rediss://u:p@h:1",
        "unix:///run/redis.sock",
        "unix:///run/redis.sock?db=0",
        "redis://[::1]:7",
        "redis+sentinel://a:1,b:2,c/main",
        "redis+cluster://a,b:2",
    ],
)
def test_urls(url: str) -> None:
    assert load(redis=url, worker=["w:1"]).cluster is not None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h:1",
        "http://h",
        "unix://",
        "redis://",
        "redis://h:port",
        "redis://h:99999",
        "redis://a,b",
        "redis+sentinel://a:1",
        "redis+cluster://a:1,:2",
        "redis://a?ssl_ca_certs=/dev/null",
        "rediss://a?ssl_ca_certs=/does/not/exist",
        "rediss://a?tls=1",
        "redis+cluster://a?tls=yes",
        "redis+cluster://a?db=1",
        "redis://a?db=one",
        "redis://a?db=1",
        "rediss://u:p@a:1/3",
        "unix:///run/redis.sock?db=1",
        "redis://a?timeout=1",
    ],
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ConfigError, match="redis"):
        load(redis=url, worker=["w:1"])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"node_id": "a"}, "node-id: needs redis"),
        ({"lease": 3.0}, "lease: needs redis"),
        ({"cluster_wait": 3.0}, "cluster-wait: needs redis"),
        ({"redis": "redis://h"}, "needs worker"),
        ({"redis": "redis://h", "worker": ["w:1"], "node_id": "a b"}, "node-id"),
        ({"redis": "redis://h", "worker": ["w:1"], "node_id": "x" * 64}, "node-id"),
        ({"redis": "redis://h", "worker": ["w:1"], "lease": 0.5}, "lease"),
        ({"redis": "redis://h", "worker": ["w:1"], "volume": ["a=/dev/null"]}, "image"),
    ],
)
def test_what_does_not_go_together(options: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load(**options)


def test_processes() -> None:
    config = load(processes=2, redis="redis://r", worker=["w:1"], node_id="a")
    assert config.processes == 2
    assert load(processes=1).processes == 1


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "--processes: several of them are nodes of a cluster: give redis and worker"),
        ({"redis": "redis://r"}, "--redis: needs worker"),
        ({"processes": 0}, "--processes: must be 1 to 64"),
        ({"processes": 65}, "--processes: must be 1 to 64"),
        ({"redis": "redis://r", "worker": ["w:1"], "node_id": "n" * 61}, "--node-id: at most 60"),
        ({"redis": "redis://r", "worker": ["w:1"], "admin": "127.0.0.1:65535"}, "no admin port"),
        ({"redis": "redis://r", "worker": ["w:1"], "metrics": 65535}, "no metrics port for each"),
        (
            {"redis": "redis://r", "worker": ["w:1"], "admin": "127.0.0.1:3259"},
            "portal 127.0.0.1:3260 is in the way of admin ports up to 3260",
        ),
    ],
)
def test_processes_that_cannot_be(options: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(**{"processes": 2, **options})
    assert why in str(refused.value)
