"""The commands and their flags.  What they do stands in a module each, imported when needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from target.cli import watch_app, worker_app
from target.cli.acl_app import acl_app
from target.cli.flags import flag, given, number
from target.cli.scsi_app import scsi_app
from target.cli.sight_app import node_app, session_app, task_app
from target.cli.target_app import target_app
from target.cli.user_app import user_app
from target.cli.volume_app import volume_app
from target.config import Options, load_serve_config
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
app.add_typer(volume_app, name="volume")
app.add_typer(target_app, name="target")
app.add_typer(acl_app, name="acl")
app.add_typer(user_app, name="user")
app.add_typer(node_app, name="node")
app.add_typer(session_app, name="session")
app.add_typer(task_app, name="task")

ConfigFlag = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Options from a TOML file.")
]


@app.command()
def serve(
    config: ConfigFlag = None,
    data_dir: Annotated[
        str | None, flag("Disks", "Where volumes are kept. [default: ./lunmesh-data]", "DIR")
    ] = None,
    portal: Annotated[
        list[str] | None,
        flag(
            "Target",
            "Listen here; may be repeated. [default: 127.0.0.1:3260]",
            "HOST:PORT[,group=NAME]",
        ),
    ] = None,
    advertise: Annotated[
        list[str] | None,
        flag(
            "Target",
            "What discovery names instead of portals; may be repeated.",
            "HOST:PORT[,group=NAME]",
        ),
    ] = None,
    iqn: Annotated[
        str | None, flag("Target", f"The target's iSCSI name. [default: {IQN_DEFAULT}]", "IQN")
    ] = None,
    target: Annotated[
        list[str] | None,
        flag(
            "Target",
            "Another target, perhaps reached through some portals only; may be repeated.",
            "IQN[,portal-group=NAME]",
        ),
    ] = None,
    volume: Annotated[
        list[str] | None,
        flag(
            "Disks",
            "NAME=SIZE or NAME=/path/to/image, then [,block=512|4096][,chunk=SIZE][,readonly]"
            "[,target=IQN]; repeated, they are LUN 0, 1, 2… of their target. [default: disk0=1G]",
            "VOLUME",
        ),
    ] = None,
    store: Annotated[
        str | None,
        flag(
            "Disks",
            "Keep new disks there: file (the data directory), or a pool of Ceph's. [default: file]",
            "file|rados:POOL[@CONF][?id=NAME][&cache=SIZE]",
        ),
    ] = None,
    worker: Annotated[
        list[str] | None,
        flag(
            "Workers",
            "Keep new disks on this worker; repeated, their chunks are spread.",
            "HOST:PORT|unix:PATH",
        ),
    ] = None,
    worker_ca: Annotated[
        str | None, flag("Workers", "TLS: who signs the workers' certificates.", "FILE")
    ] = None,
    worker_cert: Annotated[
        str | None, flag("Workers", "TLS: the certificate to show to workers.", "FILE")
    ] = None,
    worker_key: Annotated[str | None, flag("Workers", "TLS: its private key.", "FILE")] = None,
    worker_checksum: Annotated[
        str | None,
        flag("Workers", "CRC32C of all data on the wire, as there. [default: on]", "on|off"),
    ] = None,
    worker_timeout: Annotated[
        str | None,
        flag("Workers", "How long a command waits for a worker. [default: 10]", "SECONDS"),
    ] = None,
    worker_wait: Annotated[
        str | None,
        flag("Workers", "How long to wait for workers at start. [default: 10]", "SECONDS"),
    ] = None,
    worker_away: Annotated[
        str | None,
        flag("Workers", "What a command is told then. [default: busy]", "busy|not-ready"),
    ] = None,
    migration_rate: Annotated[
        str | None,
        flag("Workers", "What a migration copies in a second. [default: 0]", "SIZE"),
    ] = None,
    redis: Annotated[
        str | None,
        flag(
            "Cluster",
            "Serve the disks together with other nodes, by this Redis. Shows in ps: see "
            "LUNMESH_REDIS.",
            "URL",
        ),
    ] = None,
    node_id: Annotated[
        str | None,
        flag("Cluster", "This node's name among them; without, one that data-dir keeps.", "ID"),
    ] = None,
    lease: Annotated[
        str | None,
        flag("Cluster", "A node that is silent for so long is shut out. [default: 5]", "SECONDS"),
    ] = None,
    cluster_wait: Annotated[
        str | None,
        flag("Cluster", "How long a command waits for other nodes. [default: 5]", "SECONDS"),
    ] = None,
    processes: Annotated[
        str | None,
        flag(
            "Cluster",
            "Serve with so many processes behind the same portals, each a node: ID-1, ID-2…"
            " [default: 1]",
            "N",
        ),
    ] = None,
    admin: Annotated[
        str | None,
        flag(
            "Admin",
            "Where `lunmesh volume` reaches it, or off; with several processes, the ports from"
            " there on. [default: 127.0.0.1:3280]",
            "HOST:PORT|off",
        ),
    ] = None,
    admin_token_file: Annotated[
        str | None, flag("Admin", "Its callers must have the token in this file.", "FILE")
    ] = None,
    admin_cert: Annotated[
        str | None, flag("Admin", "Serve it by TLS: the certificate. PEM.", "FILE")
    ] = None,
    admin_key: Annotated[
        str | None, flag("Admin", "The certificate's private key. PEM.", "FILE")
    ] = None,
    admin_client_ca: Annotated[
        str | None,
        flag("Admin", "Its callers must have a certificate that this CA has signed. PEM.", "FILE"),
    ] = None,
    audit_log: Annotated[
        str | None,
        flag("Admin", "Append who changes what to this file, a JSON object a line.", "FILE"),
    ] = None,
    metrics: Annotated[
        str | None,
        flag(
            "Log",
            "Tell Prometheus there as well, /metrics; also /healthz and /readyz; with several"
            " processes, the ports from there on.",
            "[HOST:]PORT",
        ),
    ] = None,
    buffer_memory: Annotated[
        str | None, flag("Tuning", "Memory for data on its way. [default: 256M]", "SIZE")
    ] = None,
    acl: Annotated[
        list[str] | None,
        flag(
            "Access",
            "Who may log in, with [,user=NAME][,target=IQN][,volume=NAME[:ro][:LUN]]…; may be "
            "repeated. lunmesh acl adds to them.",
            "INITIATOR",
        ),
    ] = None,
    chap: Annotated[
        list[str] | None,
        flag(
            "Access",
            "Who may log in; may be repeated. Shows in ps: see --chap-file.",
            "USER:SECRET",
        ),
    ] = None,
    chap_file: Annotated[
        str | None, flag("Access", "The same from a file, a USER:SECRET a line.", "FILE")
    ] = None,
    mutual_chap: Annotated[
        str | None, flag("Access", "How the target proves itself to initiators.", "USER:SECRET")
    ] = None,
    mutual_chap_file: Annotated[str | None, flag("Access", "The same from a file.", "FILE")] = None,
    chap_discovery: Annotated[
        bool | None, flag("Access", "Discovery sessions need CHAP as well. [default: no]")
    ] = None,
    write_cache: Annotated[
        str | None,
        flag(
            "Disks",
            "off: every write reaches the disk before it is answered. [default: on]",
            "on|off",
        ),
    ] = None,
    strict: Annotated[
        bool | None,
        flag("Tuning", "One command at a time, all data asked for (R2T). [default: no]"),
    ] = None,
    queue_depth: Annotated[
        str | None, flag("Tuning", "Commands of one session at a time. [default: 128]", "N")
    ] = None,
    io_threads: Annotated[
        str | None,
        flag("Tuning", "Threads for I/O that has to wait for a disk. [default: 4]", "N"),
    ] = None,
    busy_poll: Annotated[
        str | None,
        flag(
            "Tuning",
            "How long to look for the next command of an initiator that has one at a time before"
            " sleeping, 0 to 1000 µs. [default: 100]",
            "MICROSECONDS",
        ),
    ] = None,
    log_level: Annotated[
        str | None, flag("Log", "debug, info, warning or error. [default: info]", "LEVEL")
    ] = None,
    log_format: Annotated[
        str | None, flag("Log", "text or json. [default: text]", "FORMAT")
    ] = None,
    trace: Annotated[
        str | None,
        flag("Log", "Traces of commands to this OpenTelemetry collector (OTLP over HTTP).", "URL"),
    ] = None,
    trace_ratio: Annotated[
        str | None, flag("Log", "The part of commands that is traced. [default: 0.001]", "RATIO")
    ] = None,
    login_timeout: Annotated[
        str | None, flag("Tuning", "A login must be done within this. [default: 15]", "SECONDS")
    ] = None,
    nop_interval: Annotated[
        str | None,
        flag("Tuning", "Ping an idle session this often, 0: never. [default: 30]", "SECONDS"),
    ] = None,
    nop_timeout: Annotated[
        str | None,
        flag("Tuning", "Drop a session whose answer takes longer. [default: 15]", "SECONDS"),
    ] = None,
    shutdown_timeout: Annotated[
        str | None,
        flag("Tuning", "How long running commands may take at the end. [default: 10]", "SECONDS"),
    ] = None,
) -> None:
    """Serve volumes as the LUNs of an iSCSI target.

    With no flags: one thin disk of 1 GiB, kept in ./lunmesh-data, for this machine only.
    CHAP users may also come from LUNMESH_CHAP and LUNMESH_MUTUAL_CHAP.
    """
    flags = Options(
        data_dir=given(data_dir),
        portal=given(portal),
        advertise=given(advertise),
        iqn=given(iqn),
        target=given(target),
        volume=given(volume),
        store=given(store),
        worker=given(worker),
        worker_ca=given(worker_ca),
        worker_cert=given(worker_cert),
        worker_key=given(worker_key),
        worker_checksum=given(worker_checksum),
        worker_timeout=number("worker-timeout", worker_timeout, float),
        worker_wait=number("worker-wait", worker_wait, float),
        worker_away=given(worker_away),
        migration_rate=given(migration_rate),
        redis=given(redis),
        node_id=given(node_id),
        lease=number("lease", lease, float),
        cluster_wait=number("cluster-wait", cluster_wait, float),
        processes=number("processes", processes, int),
        admin=given(admin),
        admin_token_file=given(admin_token_file),
        admin_cert=given(admin_cert),
        admin_key=given(admin_key),
        admin_client_ca=given(admin_client_ca),
        audit_log=given(audit_log),
        metrics=given(metrics),
        buffer_memory=given(buffer_memory),
        acl=given(acl),
        chap=given(chap),
        chap_file=given(chap_file),
        mutual_chap=given(mutual_chap),
        mutual_chap_file=given(mutual_chap_file),
        chap_discovery=given(chap_discovery),
        write_cache=given(write_cache),
        strict=given(strict),
        queue_depth=number("queue-depth", queue_depth, int),
        io_threads=number("io-threads", io_threads, int),
        busy_poll=number("busy-poll", busy_poll, int),
        log_level=given(log_level),
        log_format=given(log_format),
        trace=given(trace),
        trace_ratio=number("trace-ratio", trace_ratio, float),
        login_timeout=number("login-timeout", login_timeout, float),
        nop_interval=number("nop-interval", nop_interval, float),
        nop_timeout=number("nop-timeout", nop_timeout, float),
        shutdown_timeout=number("shutdown-timeout", shutdown_timeout, float),
    )
    # The mistakes first: they need neither an event loop nor the whole target to be found.
    loaded = load_serve_config(flags, file=config, environ=os.environ)
    if loaded.processes > 1:
        from target.cli.supervise import run_supervisor

        run_supervisor(loaded)
        return
    from target.cli.serve import run_serve

    run_serve(loaded)


app.command()(worker_app.worker)
app.command()(watch_app.top)
app.command()(watch_app.doctor)


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
