"""The commands and their flags.  What they do stands in a module each, imported when needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import UNSET, UnsetType

from target.cli import worker_app
from target.cli.scsi_app import scsi_app
from target.config import ConfigError, Options, load_serve_config
from target.config.model import IQN_DEFAULT

app = typer.Typer(
    name="lunmesh",
    help="A distributed storage target that speaks iSCSI.",
    no_args_is_help=False,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
config_app = typer.Typer(help="Look at a configuration file.")
app.add_typer(config_app, name="config")
app.add_typer(scsi_app, name="scsi")

ConfigFlag = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Options from a TOML file.")
]


def _flag(panel: str, help_text: str, metavar: str | None = None) -> Any:
    return typer.Option(
        metavar=metavar,
        help=help_text.replace("[", r"\["),  # markup, to rich
        show_default=False,  # defaults live in one place, target/config/load.py
        rich_help_panel=panel,
    )


@app.command()
def serve(
    config: ConfigFlag = None,
    data_dir: Annotated[
        str | None, _flag("Disks", "Where volumes are kept. [default: ./lunmesh-data]", "DIR")
    ] = None,
    portal: Annotated[
        list[str] | None,
        _flag("Target", "Listen here; may be repeated. [default: 127.0.0.1:3260]", "HOST:PORT"),
    ] = None,
    iqn: Annotated[
        str | None, _flag("Target", f"The target's iSCSI name. [default: {IQN_DEFAULT}]", "IQN")
    ] = None,
    volume: Annotated[
        list[str] | None,
        _flag(
            "Disks",
            "NAME=SIZE or NAME=/path/to/image, then [,block=512|4096][,chunk=SIZE][,readonly]; "
            "repeated, they are LUN 0, 1, 2… [default: disk0=1G]",
            "VOLUME",
        ),
    ] = None,
    worker: Annotated[
        list[str] | None,
        _flag(
            "Workers",
            "Keep new disks on this worker; repeated, their chunks are spread.",
            "HOST:PORT|unix:PATH",
        ),
    ] = None,
    worker_ca: Annotated[
        str | None, _flag("Workers", "TLS: who signs the workers' certificates.", "FILE")
    ] = None,
    worker_cert: Annotated[
        str | None, _flag("Workers", "TLS: the certificate to show to workers.", "FILE")
    ] = None,
    worker_key: Annotated[str | None, _flag("Workers", "TLS: its private key.", "FILE")] = None,
    worker_checksum: Annotated[
        str | None,
        _flag("Workers", "CRC32C of all data on the wire, as there. [default: on]", "on|off"),
    ] = None,
    worker_timeout: Annotated[
        str | None,
        _flag("Workers", "How long a command waits for a worker. [default: 10]", "SECONDS"),
    ] = None,
    worker_wait: Annotated[
        str | None,
        _flag("Workers", "How long to wait for workers at start. [default: 10]", "SECONDS"),
    ] = None,
    worker_away: Annotated[
        str | None,
        _flag("Workers", "What a command is told then. [default: busy]", "busy|not-ready"),
    ] = None,
    buffer_memory: Annotated[
        str | None, _flag("Tuning", "Memory for data on its way. [default: 256M]", "SIZE")
    ] = None,
    chap: Annotated[
        list[str] | None,
        _flag(
            "Access",
            "Who may log in; may be repeated. Shows in ps: see --chap-file.",
            "USER:SECRET",
        ),
    ] = None,
    chap_file: Annotated[
        str | None, _flag("Access", "The same from a file, a USER:SECRET a line.", "FILE")
    ] = None,
    mutual_chap: Annotated[
        str | None, _flag("Access", "How the target proves itself to initiators.", "USER:SECRET")
    ] = None,
    mutual_chap_file: Annotated[
        str | None, _flag("Access", "The same from a file.", "FILE")
    ] = None,
    chap_discovery: Annotated[
        bool | None, _flag("Access", "Discovery sessions need CHAP as well. [default: no]")
    ] = None,
    write_cache: Annotated[
        str | None,
        _flag(
            "Disks",
            "off: every write reaches the disk before it is answered. [default: on]",
            "on|off",
        ),
    ] = None,
    strict: Annotated[
        bool | None,
        _flag("Tuning", "One command at a time, all data asked for (R2T). [default: no]"),
    ] = None,
    queue_depth: Annotated[
        str | None, _flag("Tuning", "Commands of one session at a time. [default: 128]", "N")
    ] = None,
    io_threads: Annotated[
        str | None,
        _flag("Tuning", "Threads for I/O that has to wait for a disk. [default: 4]", "N"),
    ] = None,
    log_level: Annotated[
        str | None, _flag("Log", "debug, info, warning or error. [default: info]", "LEVEL")
    ] = None,
    log_format: Annotated[
        str | None, _flag("Log", "text or json. [default: text]", "FORMAT")
    ] = None,
    login_timeout: Annotated[
        str | None, _flag("Tuning", "A login must be done within this. [default: 15]", "SECONDS")
    ] = None,
    nop_interval: Annotated[
        str | None,
        _flag("Tuning", "Ping an idle session this often, 0: never. [default: 30]", "SECONDS"),
    ] = None,
    nop_timeout: Annotated[
        str | None,
        _flag("Tuning", "Drop a session whose answer takes longer. [default: 15]", "SECONDS"),
    ] = None,
    shutdown_timeout: Annotated[
        str | None,
        _flag("Tuning", "How long running commands may take at the end. [default: 10]", "SECONDS"),
    ] = None,
) -> None:
    """Serve volumes as the LUNs of an iSCSI target.

    With no flags: one thin disk of 1 GiB, kept in ./lunmesh-data, for this machine only.
    CHAP users may also come from LUNMESH_CHAP and LUNMESH_MUTUAL_CHAP.
    """
    flags = Options(
        data_dir=_given(data_dir),
        portal=_given(portal),
        iqn=_given(iqn),
        volume=_given(volume),
        worker=_given(worker),
        worker_ca=_given(worker_ca),
        worker_cert=_given(worker_cert),
        worker_key=_given(worker_key),
        worker_checksum=_given(worker_checksum),
        worker_timeout=_number("worker-timeout", worker_timeout, float),
        worker_wait=_number("worker-wait", worker_wait, float),
        worker_away=_given(worker_away),
        buffer_memory=_given(buffer_memory),
        chap=_given(chap),
        chap_file=_given(chap_file),
        mutual_chap=_given(mutual_chap),
        mutual_chap_file=_given(mutual_chap_file),
        chap_discovery=_given(chap_discovery),
        write_cache=_given(write_cache),
        strict=_given(strict),
        queue_depth=_number("queue-depth", queue_depth, int),
        io_threads=_number("io-threads", io_threads, int),
        log_level=_given(log_level),
        log_format=_given(log_format),
        login_timeout=_number("login-timeout", login_timeout, float),
        nop_interval=_number("nop-interval", nop_interval, float),
        nop_timeout=_number("nop-timeout", nop_timeout, float),
        shutdown_timeout=_number("shutdown-timeout", shutdown_timeout, float),
    )
    # The mistakes first: they need neither an event loop nor the whole target to be found.
    loaded = load_serve_config(flags, file=config, environ=os.environ)
    from target.cli.serve import run_serve

    run_serve(loaded)


app.command()(worker_app.worker)


def _given(value: Any) -> Any | UnsetType:
    return UNSET if value is None else value


def _number(name: str, text: str | None, kind: type[int] | type[float]) -> Any | UnsetType:
    if text is None:
        return UNSET
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number of seconds"
        raise ConfigError(f"--{name}: must be {what}, not {text!r}") from None


@app.command()
def version(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say which version this is."""
    from target.cli.version import print_version

    print_version(as_json)


@config_app.command()
def check(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The TOML file.", show_default=False)
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the resulting options, without secrets.")
    ] = False,
) -> None:
    """Check FILE as `lunmesh serve --config FILE` would read it; starts nothing."""
    from target.cli.config_check import check_config

    check_config(file, as_json)
