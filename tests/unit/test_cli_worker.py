"""``lunmesh worker`` without a worker: one line for every mistake, and the right exit status."""

from __future__ import annotations

from pathlib import Path

import pytest

from target.cli.run import run
from target.config import ConfigError
from target.config.worker import RadosPool, WorkerConfig, WorkerFlags, load_worker_config

HERE = ["--listen", "127.0.0.1:0", "--store", "memory:"]

MISTAKES = [
    [],
    ["--listen", "127.0.0.1:0"],
    ["--store", "memory:"],
    ["--listen", "127.0.0.1", "--store", "memory:"],
    ["--listen", "127.0.0.1:99999", "--store", "memory:"],
    ["--listen", "::1:3270", "--store", "memory:"],
    ["--listen", "unix:", "--store", "memory:"],
    ["--listen", "unix:/run/a,b", "--store", "memory:"],
    ["--listen", "unix:" + "x" * 200, "--store", "memory:"],
    ["--listen", "127.0.0.1:0", "--store", "memory"],
    ["--listen", "127.0.0.1:0", "--store", "memory:x"],
    ["--listen", "127.0.0.1:0", "--store", "file:"],
    ["--listen", "127.0.0.1:0", "--store", "/data"],
    ["--listen", "0.0.0.0:3270", "--store", "memory:"],
    ["--listen", "example.org:3270", "--store", "memory:"],
    ["--listen", "unix:s", "--store", "rados:"],
    ["--listen", "unix:s", "--store", "rados:@ceph.conf"],
    ["--listen", "unix:s", "--store", "rados:pool@"],
    ["--listen", "unix:s", "--store", "rados:pool?id="],
    ["--listen", "unix:s", "--store", "rados:pool?name=x"],
    [*HERE, "--buffer-memory", "15M"],
    [*HERE, "--buffer-memory", "1000T"],
    [*HERE, "--io-threads", "0"],
    [*HERE, "--io-threads", "many"],
    [*HERE, "--tls-cert", "cert.pem"],
    [*HERE, "--tls-ca", "ca.pem"],
    [*HERE, "--checksum", "perhaps"],
    [*HERE, "--fault", "delay=soon"],
    [*HERE, "--shutdown-timeout", "-1"],
    [*HERE, "--log-level", "loud"],
    [*HERE, "extra"],
]


@pytest.mark.parametrize("args", MISTAKES, ids=lambda args: " ".join(args)[:60])
def test_a_mistake_is_one_line_and_status_2(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["worker", *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lunmesh: ")
    assert err.count("\n") == 1


def load(listen: str, **more: str | bool) -> WorkerConfig:
    flags = {"store": "memory:", **more}
    return load_worker_config(WorkerFlags(listen=listen, **flags))  # type: ignore[arg-type]


def test_defaults() -> None:
    config = load("127.0.0.1:3270", store="file:data")
    assert config.store == Path("data")
    assert (config.buffer_memory_bytes, config.io_threads) == (256 << 20, 4)
    assert config.checksum
    assert config.notes == ()


def test_a_pool_is_found_by_its_cluster_and_user() -> None:
    found = load("127.0.0.1:1", store="rados:disks").store
    assert found == RadosPool(pool="disks", conf=Path("/etc/ceph/ceph.conf"), user="")
    found = load("127.0.0.1:1", store="rados:disks@a/ceph.conf?id=lunmesh").store
    assert found == RadosPool(pool="disks", conf=Path("a/ceph.conf"), user="lunmesh")


def test_addresses_are_as_grpc_writes_them(tmp_path: Path) -> None:
    assert load("[::1]:3270").address == "[::1]:3270"
    assert load("localhost:3270").address == "localhost:3270"
    assert load(f"unix:{tmp_path}/s").address == f"unix:{tmp_path}/s"
    assert load("unix:s").address == f"unix:{Path.cwd()}/s"


def test_other_machines_are_let_in_with_tls_or_when_told_so() -> None:
    with pytest.raises(ConfigError, match="--insecure"):
        load("10.0.0.1:3270")
    assert load("10.0.0.1:3270", insecure=True).notes
    tls = {"tls_cert": "c", "tls_key": "k"}
    assert load("10.0.0.1:3270", **tls).notes  # everybody may come in, unseen by others
    assert not load("10.0.0.1:3270", **tls, tls_ca="ca").notes


def test_faults_are_said() -> None:
    config = load("127.0.0.1:1", fault="delay=200ms")
    assert config.faults is not None
    assert config.faults.delay_seconds == 0.2
    assert "delay=200ms" in config.notes[0]
