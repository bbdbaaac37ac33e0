"""The command line without a server: one line for every mistake, and the right exit status."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

import target
from target.cli import run as run_module
from target.cli.app import app
from target.cli.errors import CliError, explain
from target.cli.process import told_at
from target.cli.run import run
from target.cli.user import SecretFrom
from target.config import ConfigError
from target.config.chap import CHAP_SECRET_BYTES_MAX

SECRET = "zebrazebrazebra"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


USAGE_MISTAKES = [
    ["nosuch"],
    ["config"],
    ["config", "nosuch"],
    ["config", "check"],
    ["config", "check", "missing.toml"],
    ["config", "check", "."],
    ["config", "check", "a.toml", "b.toml"],
    ["version", "extra"],
    ["version", "--nosuch"],
    ["serve", "extra"],
    ["serve", "--portall", "x"],
    ["serve", "--portal"],
    ["serve", "--portal", ""],
    ["serve", "--portal", "127.0.0.1:99999"],
    ["serve", "--portal", "::1:3260"],
    ["serve", "--iqn", "disk"],
    ["serve", "--iqn", "iqn.2026-11.io.lunmesh:UPPER"],
    ["serve", "--volume", "disk0"],
    ["serve", "--volume", "disk0=lots"],
    ["serve", "--volume", "disk0=1G", "--volume", "disk0=2G"],
    ["serve", "--volume", "disk0=1G,block=777"],
    ["serve", "--volume", "../../etc=1G"],
    ["serve", "--volume", "disk\n0=1G"],
    ["serve", "--buffer-memory", "1K"],
    ["serve", "--buffer-memory", "-1"],
    ["serve", "--buffer-memory", "7E"],
    ["serve", "--queue-depth", "many"],
    ["serve", "--queue-depth", "0"],
    ["serve", "--io-threads", "1.5"],
    ["serve", "--login-timeout", "soon"],
    ["serve", "--login-timeout", "nan"],
    ["serve", "--write-cache", "perhaps"],
    ["serve", "--log-level", "loud"],
    ["serve", "--log-format", "xml"],
    ["serve", "--trace", "localhost:4318"],
    ["serve", "--trace", "http://user:secret@localhost:4318/"],
    ["serve", "--trace-ratio", "0"],
    ["serve", "--trace-ratio", "2"],
    ["serve", "--data-dir", ""],
    ["serve", "--config", "missing.toml"],
    ["serve", "--chap-discovery"],
    ["serve", "--chap", SECRET],
    ["serve", "--chap", "alice:zebra"],
    ["serve", "--chap=alice", SECRET],
    ["serve", f"--chapp=alice:{SECRET}"],
    ["serve", "--chap-file", "missing"],
    ["serve", "--mutual-chap", f"bob:{SECRET}"],
    ["serve", "--chap", f"alice:{SECRET}", "--mutual-chap", f"bob:{SECRET}"],
]


@pytest.mark.parametrize("args", USAGE_MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line_and_status_2(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lunmesh: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "zebra" not in err
    assert "Traceback" not in err


def test_config_check(capsys: pytest.CaptureFixture[str]) -> None:
    Path("good.toml").write_text('portal = "0.0.0.0:3260"\nvolume = ["a=1G", "b=2G"]\n')
    assert run(["config", "check", "good.toml"]) == 0
    out, err = capsys.readouterr()
    assert "good.toml: ok: iqn.2026-11.io.lunmesh:target on 0.0.0.0:3260, 2 volumes" in out
    assert "no chap user" in out
    assert err == ""
    Path("bad.toml").write_text('\nportall = "x"\n')
    assert run(["config", "check", "bad.toml"]) == 2
    assert capsys.readouterr().err == (
        "lunmesh: bad.toml:2: unknown key 'portall' (did you mean 'portal'?)\n"
    )


def test_config_check_looks_at_images(capsys: pytest.CaptureFixture[str]) -> None:
    Path("small.img").write_bytes(b"x" * 100)
    Path("c.toml").write_text('volume = "a=./small.img"\n')
    assert run(["config", "check", "c.toml"]) == 2
    assert "less than one block of 512" in capsys.readouterr().err


def test_config_check_as_json_shows_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.toml").write_text(f'chap = "alice:{SECRET}"\nmutual-chap = "bob:giraffegiraffe"\n')
    assert run(["config", "check", "--json", "c.toml"]) == 0
    out = capsys.readouterr().out
    shown = json.loads(out)
    assert shown["chap"] == ["alice"]
    assert shown["mutual_chap"] == "bob"
    assert shown["volumes"][0]["name"] == "disk0"
    assert shown["portals"] == ["127.0.0.1:3260"]
    assert "zebra" not in out
    assert "giraffe" not in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version"]) == 0
    assert capsys.readouterr().out == f"lunmesh {target.__version__}\n"
    assert run(["version", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["version"] == target.__version__
    assert "uvloop" in shown["libraries"]


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"], ["serve", "--help"], ["config", "-h"]])
def test_help(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(args) == 0
    out, err = capsys.readouterr()
    assert "Usage: lunmesh" in out
    assert err == ""


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (CliError("cannot"), 1, "lunmesh: cannot\n"),
        (CliError("wrong", 2), 2, "lunmesh: wrong\n"),
        (ConfigError("a.toml:1: x"), 2, "lunmesh: a.toml:1: x\n"),
        (PermissionError(13, "whatever", "/x"), 1, "lunmesh: /x: permission denied\n"),
        (OSError("odd"), 1, "lunmesh: odd\n"),
        (KeyboardInterrupt(), 1, "lunmesh: interrupted\n"),
        (ValueError("a\nb\x1b[31m"), 1, "lunmesh: internal error: ValueError: a b?[31m\n"),
    ],
)
def test_what_is_raised_becomes_one_line(
    raised: BaseException,
    status: int,
    line: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def command(*_args: object) -> None:
        raise raised

    monkeypatch.setattr("target.cli.version.print_version", command)
    assert run(["version"]) == status
    assert capsys.readouterr().err == line


def test_a_bug_shows_its_traceback_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(_as_json: bool) -> None:
        raise ValueError("odd")

    monkeypatch.setattr("target.cli.version.print_version", command)
    monkeypatch.setenv(run_module.ENV_TRACEBACK, "1")
    assert run(["version"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_the_system_errors_are_said_in_one_style() -> None:
    assert explain(FileNotFoundError(2, "No such file", "x")) == "x: no such file or directory"
    assert explain(OSError(98, "error while attempting to bind on address …")) == (
        "address already in use"
    )


@pytest.mark.parametrize(
    "command", [["-m", "target.cli"], ["-c", "import target.cli as c; c.main()"]]
)
def test_as_a_process(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *command, "serve", "--queue-depth", "x"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "lunmesh: --queue-depth: must be a whole number, not 'x'\n"


def test_a_reader_that_has_seen_enough() -> None:
    """``lunmesh version | true`` ends quietly."""
    process = subprocess.Popen(
        [sys.executable, "-m", "target.cli", "version", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr as stderr:
        assert stderr.read() == b""
    assert process.wait(60) in (0, 1)


@pytest.mark.parametrize(
    "args",
    [
        ["volume", "show", "\udcff"],
        ["volume", "create", "\udcff", "1G"],
        ["acl", "delete", "\udcff"],
    ],
)
def test_an_argument_that_is_not_utf_8(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(args) == 2
    assert capsys.readouterr().err == "lunmesh: an argument is not UTF-8\n"


@pytest.mark.parametrize("said", [b"<html>", b"[]", b'"\xff"'])
def test_what_answers_is_no_node(said: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.recv(1 << 16)
                connection.sendall(head + said)

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert run(["volume", "list", "--admin", address]) == 1
        thread.join()
    err = capsys.readouterr().err
    assert err.startswith(f"lunmesh: what answers at {address} is no node")
    assert err.count("\n") == 1


def test_a_health_socket_with_too_long_a_path() -> None:
    with pytest.raises(ConfigError, match=r"^LUNMESH_HEALTH: .* is too long for a socket: 107"):
        told_at(None, {"LUNMESH_HEALTH": "/" + "x" * 107})
    assert told_at(None, {"LUNMESH_HEALTH": "/" + "x" * 106}) == [Path("/" + "x" * 106)]


def test_a_number_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--trace-ratio", "abc"]) == 2
    assert capsys.readouterr().err == "lunmesh: --trace-ratio: must be a number, not 'abc'\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_without_the_streams_of_a_terminal(closed: str) -> None:
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "target.cli"]
    for args, status in ((["version"], 0), (["nosuch"], 2)):
        done = subprocess.run(
            [*command, *args],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=Path(__file__).parents[2],
        )
        assert (done.returncode, "internal" in done.stderr) == (status, False)


def commands(group: TyperGroup) -> Iterator[TyperCommand]:
    for command in group.commands.values():
        if isinstance(command, TyperGroup):
            yield from commands(command)
        else:
            assert isinstance(command, TyperCommand)
            yield command


def test_whatever_asks_a_node_speaks_json() -> None:
    """But for ``doctor``, which writes a file for people."""
    top = typer.main.get_command(app)
    assert isinstance(top, TyperGroup)
    flags = {it.name: {flag.name for flag in it.params} for it in commands(top)}
    askers = {name for name, names in flags.items() if "admin" in names and "config" not in names}
    assert len(askers) > 10
    assert {name for name in askers if "as_json" not in flags[name]} == {"doctor"}


@pytest.mark.parametrize(
    ("args", "status", "title"),
    [
        (["nosuch"], 2, "Wrong command line or configuration"),
        (["config", "check", "missing.toml"], 2, "Wrong command line or configuration"),
        (["user", "create", "carol", SECRET], 2, "Wrong command line or configuration"),
        (["target", "change", "iqn.x:y"], 2, "Wrong command line or configuration"),
        (["session", "drop", "nonsense"], 2, "Wrong command line or configuration"),
        (["volume", "delete", "a", "--yes", "--admin", "127.0.0.1:1"], 1, "No node answers"),
    ],
)
def test_with_json_a_mistake_is_a_problem(
    args: list[str], status: int, title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """RFC 9457, with the line that is said without."""
    assert run(args) == status
    line = capsys.readouterr().err.removeprefix("lunmesh: ").rstrip("\n")
    assert run([*args, "--json"]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert "zebra" not in err
    assert json.loads(err) == {"title": title, "detail": line}


@pytest.mark.parametrize(
    ("given", "read"),
    [(b"zebrazebrazebra\n", SECRET), (b"zebra zebra\n\n", "zebra zebra\n"), (b"x" * 999, None)],
)
def test_a_secret_from_the_standard_input(
    given: bytes, read: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
    secret = SecretFrom(Path("-"), None).read()
    if read is not None:
        assert secret == read
    else:
        assert CHAP_SECRET_BYTES_MAX < len(secret) < CHAP_SECRET_BYTES_MAX + 10, "and refused later"


def test_every_command_has_a_help_line() -> None:
    assert all(command.callback and command.callback.__doc__ for command in app.registered_commands)


def test_flags_are_read_before_grpc_is_imported() -> None:
    """Which has to find its environment set (workers/grpc_environment.py)."""
    code = (
        "import sys, target.cli.app; print(sorted({'grpc', 'aiohttp', 'redis'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("typed", "completed"), [("lunmesh vol", "volume"), ("lunmesh volume res", "resize")]
)
def test_the_shell_completes_commands(typed: str, completed: str) -> None:
    words = typed.split()
    asked = {
        "_LUNMESH_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(words) - 1),
    }
    program = [str(Path(sys.executable).parent / "lunmesh")]
    done = subprocess.run(
        program, env=os.environ | asked, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == [completed]
    shown = subprocess.run(
        [*program, "--show-completion", "bash"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "complete -o default -F _lunmesh_completion lunmesh" in shown.stdout
