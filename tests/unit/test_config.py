"""The configuration as a whole: sources, their order, and mistakes with their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from target.block.worker_address import WorkerAddress, WorkerTls
from target.config import (
    ConfigError,
    Options,
    Portal,
    ServeConfig,
    VolumeConfig,
    load_serve_config,
)
from target.config.options import field_of, option_names

PEM = "-----BEGIN CERTIFICATE-----\n"
SECRET = "zebrazebrazebra"


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("config.toml")


def load(toml: Path, text: str, flags: Options | None = None, **environ: str) -> ServeConfig:
    toml.write_text(text)
    return load_serve_config(flags or Options(), file=toml, environ=environ)


def test_nothing_given() -> None:
    config = load_serve_config(Options())
    assert config.data_dir == Path("lunmesh-data")
    assert config.portals == (Portal("127.0.0.1", 3260),)
    assert config.iqn == "iqn.2026-11.io.lunmesh:target"
    assert config.volumes == (VolumeConfig(name="disk0", size_bytes=1 << 30),)
    assert config.buffer_memory_bytes == 256 << 20
    assert config.write_cache
    assert config.notes == ()


def test_a_file_has_the_names_of_the_flags(toml: Path) -> None:
    (toml.parent / "ca.pem").write_text(PEM)
    config = load(
        toml,
        """
        data-dir = "data"
        portal = ["127.0.0.1:3261", "[::1]:3261"]
        advertise = "192.0.2.1"
        iqn = "iqn.2026-11.io.lunmesh:other"
        worker = ["unix:w1.sock", "host2", "[::1]:3271"]
        worker-ca = "ca.pem"
        worker-checksum = "off"
        worker-timeout = 20
        worker-wait = 0
        worker-away = "not-ready"
        admin = "127.0.0.1:3281"
        metrics = 9280
        buffer-memory = "64M"
        chap = ["alice:zebrazebrazebra", "bob:zebrazebrazebra"]
        mutual-chap = "target:giraffegiraffe"
        chap-discovery = true
        write-cache = "off"
        strict = true
        queue-depth = 32
        io-threads = 2
        busy-poll = 20
        log-level = "debug"
        log-format = "json"
        trace = "http://127.0.0.1:4318/v1/traces"
        trace-ratio = 0.5
        login-timeout = 5
        nop-interval = 0
        nop-timeout = 2.5
        shutdown-timeout = 3

        [[volume]]
        name = "a"
        size = "1G"
        block = 4096

        [[volume]]
        name = "b"
        path = "images/b.img"
        chunk = "1M"
        readonly = true
        """,
    )
    assert config == ServeConfig(
        data_dir=Path("data"),
        portals=(Portal("127.0.0.1", 3261), Portal("::1", 3261)),
        advertise=(Portal("192.0.2.1", 3260),),
        iqn="iqn.2026-11.io.lunmesh:other",
        targets=(),
        volumes=(
            VolumeConfig(name="a", size_bytes=1 << 30, block_bytes=4096),
            VolumeConfig(name="b", path=Path("images/b.img"), chunk_bytes=1 << 20, readonly=True),
        ),
        store=None,
        workers=(
            WorkerAddress(unix_path=str(Path("w1.sock").absolute())),
            WorkerAddress("host2", 3270),
            WorkerAddress("::1", 3271),
        ),
        worker_tls=WorkerTls(PEM.encode()),
        worker_checksum=False,
        worker_timeout_seconds=20,
        worker_wait_seconds=0,
        worker_away="not-ready",
        migration_rate=0,
        cluster=None,
        processes=1,
        admin=Portal("127.0.0.1", 3281),
        admin_token=None,
        admin_tls=None,
        audit_log=None,
        metrics=Portal("127.0.0.1", 9280),
        buffer_memory_bytes=64 << 20,
        acls=(),
        chap=config.chap,
        mutual_chap=config.mutual_chap,
        chap_discovery=True,
        write_cache=False,
        strict=True,
        queue_depth=32,
        io_threads=2,
        busy_poll_seconds=20e-6,
        log_level="debug",
        log_format="json",
        trace="http://127.0.0.1:4318/v1/traces",
        trace_ratio=0.5,
        login_timeout_seconds=5,
        nop_interval_seconds=0,
        nop_timeout_seconds=2.5,
        shutdown_timeout_seconds=3,
    )
    assert [user.user for user in config.chap] == ["alice", "bob"]
    assert config.mutual_chap is not None
    assert config.mutual_chap.user == "target"
    assert SECRET not in repr(config)


def test_paths_of_a_file_begin_where_the_file_is(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('data-dir = "data"\nvolume = ["a=./a.img", "b=/b.img"]\n')
    config = load_serve_config(Options(), file=file)
    assert config.data_dir == tmp_path / "data"
    assert [volume.path for volume in config.volumes] == [tmp_path / "a.img", Path("/b.img")]


def test_strings_and_tables_mix_in_a_list_of_volumes(toml: Path) -> None:
    config = load(toml, 'volume = ["a=1G", {name = "b", size = 4096}]')
    assert [volume.name for volume in config.volumes] == ["a", "b"]


def test_flags_win_over_environment_over_file(toml: Path) -> None:
    text = f'chap = "file:{SECRET}"\niqn = "iqn.2026-11.io.lunmesh:file"\nqueue-depth = 7\n'
    flags = Options(chap=[f"flag:{SECRET}"], iqn="iqn.2026-11.io.lunmesh:flag")
    config = load(toml, text, flags, LUNMESH_CHAP=f"env:{SECRET}")
    assert config.iqn == "iqn.2026-11.io.lunmesh:flag"
    assert config.queue_depth == 7
    assert [user.user for user in config.chap] == ["flag"]
    config = load(toml, text, None, LUNMESH_CHAP=f"env:{SECRET} env2:{SECRET}")
    assert [user.user for user in config.chap] == ["env", "env2"]
    config = load(toml, text, None, LUNMESH_CHAP="")
    assert [user.user for user in config.chap] == ["file"]


def test_secrets_from_files(toml: Path) -> None:
    Path("users").write_text(f"# who may log in\n\nalice:{SECRET}\nbob:{SECRET}\n")
    Path("own").write_text("target:giraffegiraffe\n")
    config = load(toml, 'chap-file = "users"\nmutual-chap-file = "own"\n')
    assert [user.user for user in config.chap] == ["alice", "bob"]
    assert config.mutual_chap is not None
    assert config.mutual_chap.secret == b"giraffegiraffe"


def test_notes_name_what_is_risky() -> None:
    config = load_serve_config(Options(portal=["0.0.0.0:3260", "127.0.0.1:3260"]))
    assert config.notes == (
        "portal 0.0.0.0:3260 is open to everybody who reaches it: no chap user is configured",
    )
    config = load_serve_config(Options(chap=[f"a:{SECRET}"]))
    assert "process list" in config.notes[0]


BAD_FILES = [
    ("portall = 'x'", "config.toml:1: unknown key 'portall' (did you mean 'portal'?)"),
    ("\n\n# x\nPortal = 'x'", "config.toml:4: unknown key 'Portal' (did you mean 'portal'?)"),
    ("buffer_memory = 1", "config.toml:1: unknown key 'buffer_memory' (did you mean"),
    ("[serve]\nportal = 'x'", "config.toml:1: unknown key 'serve'"),
    ("workers = 'x'", "config.toml:1: unknown key 'workers' (did you mean 'worker'?)"),
    ("worker = 'x:0'", "config.toml:1: worker: bad worker 'x:0': the port must be 1 to 65535"),
    ("worker = 'x y'", "config.toml:1: worker: bad worker 'x y': write HOST:PORT or [IPv6]:PORT"),
    ("worker = 'unix:'", "config.toml:1: worker: bad worker 'unix:': bad path: empty"),
    ("worker = ['a', 'a:3270']", "config.toml:1: worker: 'a:3270' is given twice"),
    ("worker = []", "config.toml:1: worker: the list is empty"),
    ("worker-ca = 'config.toml'", "config.toml:1: worker-ca: config.toml holds no PEM"),
    ("admin = '10.0.0.1:3280'", "config.toml:1: admin: '10.0.0.1:3280' is reached from other"),
    ("admin = 'on:'", "config.toml:1: admin: bad portal 'on:'"),
    ("worker-away = 'x'", "config.toml:1: worker-away: must be one of busy, not-ready, not 'x'"),
    ("iqn = 'a'\nportal =", "config.toml:2: invalid value"),
    ("iqn = 'iqn.2026-11.a:b", "config.toml:1: "),
    ("iqn = 'a'\niqn = 'b'", "config.toml:2: cannot overwrite a value"),
    ("= 1", "config.toml:1: "),
    ("a = [1, 2", "config.toml:1: "),
    ("iqn = 5", "config.toml:1: iqn: expected str, got int"),
    ("queue-depth = '5'", "config.toml:1: queue-depth: expected int, got str"),
    ("queue-depth = true", "config.toml:1: queue-depth: expected int, got bool"),
    ("queue-depth = 0", "config.toml:1: queue-depth: must be 1 to 1024, not 0"),
    ("busy-poll = 1001", "config.toml:1: busy-poll: must be 0 to 1000 µs, not 1001"),
    ("io-threads = 100000", "config.toml:1: io-threads: must be 1 to 256"),
    ("chap-discovery = 1", "config.toml:1: chap-discovery: expected bool, got int"),
    ("chap-discovery = true", "config.toml:1: chap-discovery: needs a chap user"),
    ("login-timeout = nan", "config.toml:1: login-timeout: must be 1 to 3600 seconds"),
    ("login-timeout = -inf", "config.toml:1: login-timeout: must be"),
    ("shutdown-timeout = 2026-11-22", "config.toml:1: shutdown-timeout: expected"),
    ("write-cache = 'maybe'", "config.toml:1: write-cache: must be on or off, not 'maybe'"),
    ("log-level = 'inof'", "config.toml:1: log-level: must be one of"),
    ("log-format = 'xml'", "config.toml:1: log-format: must be one of text, json"),
    ("portal = 'x:y'", "config.toml:1: portal: bad portal 'x:y'"),
    ("advertise = '0.0.0.0'", "config.toml:1: advertise: bad portal '0.0.0.0'"),
    ("advertise = 'a:0'", "config.toml:1: advertise: bad portal 'a:0'"),
    ("portal = []", "config.toml:1: portal: the list is empty"),
    ("portal = [1]", "config.toml:1: portal: expected str, got int"),
    ("portal = ['a:1', 'a:1']", "config.toml:1: portal: 'a:1' is given twice"),
    ("buffer-memory = '1M'", "config.toml:1: buffer-memory: 1 MiB is below the least"),
    ("buffer-memory = '1 GB'", "config.toml:1: buffer-memory: bad size"),
    ("data-dir = ''", "config.toml:1: data-dir: bad path: empty"),
    ("volume = 5", "config.toml:1: volume: expected"),
    ("volume = []", "config.toml:1: volume: the list is empty"),
    ("volume = 'disk0=1X'", "config.toml:1: volume: volume 'disk0': bad size '1X'"),
    ("volume = ['a=1G', 'a=2G']", "config.toml:1: volume: 'a' is given twice"),
    ("volume = ['a=/x/i', 'b=/x/../x/i']", "config.toml:1: volume: '/x/i' is given twice"),
    ("volume = [\n 'a=1G',\n 5]", "config.toml:1: volume: expected"),
    ("[[volume]]\nname = 'a'", "config.toml:1: volume: volume 'a': give either a size or the path"),
    (
        "[[volume]]\nname = 'a'\nsize = 1\npath = '/x'",
        "config.toml:1: volume: volume 'a': give either a size or the path",
    ),
    ("[[volume]]\nsize = '1G'", "config.toml:1: this volume has no 'name'"),
    (
        "[[volume]]\nname='a'\nsize='1G'\n[[volume]]\nname='b'\nsise='1G'",
        "config.toml:6: unknown key 'sise' of a volume (did you mean 'size'?)",
    ),
    ("[[volume]]\nname='a'\nsize=1.5", "config.toml:3: size: expected"),
    ("[[volume]]\nname='a'\nsize='1G'\nblock='x'", "config.toml:4: block: expected int, got str"),
    (
        "iqn='iqn.2026-11.a:b'\n\n[[volume]]\nname='a'\nsize='1G'\nblock=1",
        "config.toml:3: volume: volume 'a': block must be 512 or 4096, not 1",
    ),
    ("volume = {name='a'}", "config.toml:1: volume: expected"),
    (f"chap = '{SECRET}'", "config.toml:1: chap: bad CHAP user: write USER:SECRET"),
    ("chap = 'a:zebra'", "config.toml:1: chap: bad CHAP secret of user 'a'"),
    (f"chap = ['a:{SECRET}', 'a:{SECRET}']", "config.toml:1: chap: 'a' is given twice"),
    (f"mutual-chap = 'a:{SECRET}'", "config.toml:1: mutual-chap: needs a chap user"),
    (
        f"chap = 'a:{SECRET}'\nmutual-chap = 'b:{SECRET}'",
        "config.toml:2: mutual-chap: its secret must differ",
    ),
    ("chap-file = 'nothing'", "nothing: No such file or directory"),
    ("chap-file = '.'", ".: Is a directory"),
    ("chap-file = 'config.toml'", "config.toml:1: bad CHAP user: write USER:SECRET"),
]


@pytest.mark.parametrize(("text", "problem"), BAD_FILES, ids=[text for text, _ in BAD_FILES])
def test_a_mistake_is_one_line_with_its_place(toml: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as info:
        load(toml, text)
    message = str(info.value)
    assert message.startswith(problem)
    assert "\n" not in message
    assert "zebra" not in message


@pytest.mark.parametrize("text", ["x = " + "[" * 5000, "x = " + "1" * 5000], ids=["deep", "long"])
def test_toml_beyond_what_can_be_read(toml: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"^config\.toml: cannot be read: "):
        load(toml, text)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (Options(trace="http://h:99999/"), "--trace: the port must be 1 to 65535"),
        (Options(trace="http://h:0/"), "--trace: the port must be 1 to 65535"),
        (Options(portal=["x:y"]), "--portal: bad portal"),
        (Options(volume=["a=1G", "b"]), "--volume: bad volume 'b'"),
        (Options(iqn="x"), "--iqn: bad iSCSI name"),
        (Options(chap=["x"]), "--chap: bad CHAP user"),
        (Options(mutual_chap=f"a:{SECRET}"), "--mutual-chap: needs a chap user"),
        (Options(queue_depth=0), "--queue-depth: must be 1 to 1024"),
    ],
)
def test_a_mistake_in_a_flag_names_the_flag(flags: Options, problem: str) -> None:
    with pytest.raises(ConfigError) as info:
        load_serve_config(flags)
    assert str(info.value).startswith(problem)


def test_a_mistake_in_the_environment_names_the_variable() -> None:
    with pytest.raises(ConfigError, match=r"^LUNMESH_CHAP: bad CHAP secret of user 'a'"):
        load_serve_config(Options(), environ={"LUNMESH_CHAP": "a:short"})


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"iqn = 'a'\n\xff\xfe")
    large = tmp_path / "large"
    large.write_bytes(b"#" * (2 << 20))
    for path, problem in (
        (tmp_path / "missing", "No such file"),
        (tmp_path, "Is a directory"),
        (binary, ":2: not UTF-8"),
        (large, "larger than"),
    ):
        with pytest.raises(ConfigError) as info:
            load_serve_config(Options(), file=path)
        assert problem in str(info.value)


def test_option_names_are_those_of_the_struct() -> None:
    assert {field_of(name) for name in option_names()} == set(Options.__struct_fields__)
    assert all(name == name.lower() and "_" not in name for name in option_names())
