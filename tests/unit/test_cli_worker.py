"""``lunmesh worker`` without a worker: one line for every mistake, and the right exit status."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from msgspec import UNSET, UnsetType

from target.cli.app import app
from target.cli.run import run
from target.config import ConfigError, load_serve_config
from target.config.model import RadosPlace
from target.config.options import Options, WorkerOptions, option_names
from target.config.worker import WorkerConfig, load_worker_config

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
    [*HERE, "--tls-client-name", "node"],
    [*HERE, "--tls-cert", "c", "--tls-key", "k", "--tls-ca", "a", "--tls-client-name", "*"],
    [*HERE, "--tls-cert", "c", "--tls-key", "k", "--tls-ca", "a", "--tls-client-name", "a.*.b"],
    ["--listen", "unix:s", "--store", "memory:", "--tls-cert", "c", "--tls-key", "k"],
    [*HERE, "--checksum", "perhaps"],
    [*HERE, "--metrics", "127.0.0.1"],
    [*HERE, "--metrics", "70000"],
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
    return load_worker_config(WorkerOptions(listen=listen, **flags))  # type: ignore[arg-type]


def test_defaults() -> None:
    config = load("127.0.0.1:3270", store="file:data")
    assert config.store == Path("data")
    assert (config.buffer_memory_bytes, config.io_threads) == (256 << 20, 8)
    assert config.checksum
    assert config.notes == ()


def test_a_pool_is_found_by_its_cluster_and_user() -> None:
    found = load("127.0.0.1:1", store="rados:disks").store
    assert found == RadosPlace(pool="disks", conf=Path("/etc/ceph/ceph.conf"), user="")
    found = load("127.0.0.1:1", store="rados:disks@a/ceph.conf?id=lunmesh").store
    assert found == RadosPlace(pool="disks", conf=Path("a/ceph.conf"), user="lunmesh")


def test_a_cache_is_for_nodes() -> None:
    store = "rados:disks@a/ceph.conf?id=lunmesh&cache=32M"
    found = load_serve_config(Options(store=store)).store
    assert found is not None
    assert (found.user, found.cache_bytes) == ("lunmesh", 32 << 20)
    with pytest.raises(ConfigError, match=r"write rados:POOL\[@CONF\]\[\?id=NAME\]$"):
        load("127.0.0.1:1", store=store)
    for bad in ("cache=1K", "cache=2G", "cache", "cache=", "cache=1M&cache=2M", "size=1M"):
        with pytest.raises(ConfigError, match="--store: "):
            load_serve_config(Options(store=f"rados:disks?{bad}"))


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


def test_a_file_says_the_same_as_flags(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text(
        "listen = '127.0.0.1:0'\nstore = 'file:data'\nio-threads = 8\nchecksum = false\n"
        "tls-cert = 'c.pem'\ntls-key = '/k.pem'\nbuffer-memory = '64M'\n"
    )
    config = load_worker_config(WorkerOptions(io_threads=2), file=file)
    assert config.store == tmp_path / "data"  # paths are from where the file is
    assert config.tls_cert == tmp_path / "c.pem"
    assert config.tls_key == Path("/k.pem")
    assert config.io_threads == 2  # the flag wins
    assert not config.checksum
    assert config.buffer_memory_bytes == 64 << 20
    file.write_text("listen = 'unix:socket'\nstore = 'file:data'\n")
    assert load_worker_config(WorkerOptions(), file=file).address == f"unix:{tmp_path}/socket"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("checksums = 'on'", "1: unknown key 'checksums' (did you mean 'checksum'?)"),
        ("io-threads = 'x'", "1: io-threads: expected int, got str"),
        ("io-threads = 0", "1: io-threads: must be 1 to 256, not 0"),
        ("listen = 'nowhere'", "1: listen: bad address 'nowhere': write HOST:PORT"),
        ("listen = 'h:1'", "1: listen: h:1 is reached from other machines"),
        ("tls-key = 'k'", "1: tls-key: give tls-cert and tls-key, or neither"),
        ("volume = 'disk0=1G'", "1: unknown key 'volume'"),
    ],
)
def test_a_mistake_in_a_file_has_its_place(tmp_path: Path, line: str, problem: str) -> None:
    file = tmp_path / "worker.toml"
    file.write_text(line + "\n")
    listen: str | UnsetType = UNSET if "listen" in line else "127.0.0.1:0"
    with pytest.raises(ConfigError, match=re.escape(f"{file}:{problem}")):
        load_worker_config(WorkerOptions(store="memory:", listen=listen), file=file)


def test_every_option_is_a_flag() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    flags = {p.opts[0].removeprefix("--") for p in group.commands["worker"].params}
    assert flags == {"config", *option_names(WorkerOptions)}
