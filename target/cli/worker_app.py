"""``lunmesh worker``: its flags.  What it does stands in ``target/cli/worker.py``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from target.config.worker import WorkerFlags, load_worker_config
from workers.grpc_environment import prepare_grpc


def _flag(panel: str, help_text: str, metavar: str | None = None) -> Any:
    return typer.Option(
        metavar=metavar,
        help=help_text.replace("[", r"\["),  # markup, to rich
        show_default=False,  # defaults live in one place, target/config/worker.py
        rich_help_panel=panel,
    )


def worker(
    listen: Annotated[
        str | None,
        _flag("Worker", "Where target nodes reach it. Required.", "HOST:PORT|unix:PATH"),
    ] = None,
    store: Annotated[
        str | None,
        _flag(
            "Worker",
            "What keeps the volumes: file:DIR, memory: or rados:POOL[@CONF]. Required.",
            "STORE",
        ),
    ] = None,
    buffer_memory: Annotated[
        str | None, _flag("Tuning", "Memory for data on its way. [default: 256M]", "SIZE")
    ] = None,
    io_threads: Annotated[
        str | None,
        _flag("Tuning", "Threads for I/O that has to wait for a disk. [default: 4]", "N"),
    ] = None,
    tls_cert: Annotated[
        str | None, _flag("Access", "The worker's certificate, PEM.", "FILE")
    ] = None,
    tls_key: Annotated[str | None, _flag("Access", "Its private key, PEM.", "FILE")] = None,
    tls_ca: Annotated[
        str | None,
        _flag("Access", "Only nodes whose certificate this one has signed may come in.", "FILE"),
    ] = None,
    insecure: Annotated[
        bool, _flag("Access", "Listen for other machines without TLS: everybody may come in.")
    ] = False,
    checksum: Annotated[
        str | None, _flag("Tuning", "CRC32C of all data on the wire. [default: on]", "on|off")
    ] = None,
    fault: Annotated[
        str | None,
        _flag(
            "Tests",
            "Misbehave: delay=200ms,error=0.01,torn=0.01,lost-flush=0.1,seed=1.",
            "SPEC",
        ),
    ] = None,
    shutdown_timeout: Annotated[
        str | None,
        _flag("Tuning", "How long running I/O may take at the end. [default: 10]", "SECONDS"),
    ] = None,
    log_level: Annotated[
        str | None, _flag("Log", "debug, info, warning or error. [default: info]", "LEVEL")
    ] = None,
    log_format: Annotated[
        str | None, _flag("Log", "text or json. [default: text]", "FORMAT")
    ] = None,
) -> None:
    """Keep volumes' data for target nodes, which reach it over gRPC."""
    config = load_worker_config(
        WorkerFlags(
            listen=listen,
            store=store,
            buffer_memory=buffer_memory,
            io_threads=io_threads,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_ca=tls_ca,
            insecure=insecure,
            checksum=checksum,
            fault=fault,
            shutdown_timeout=shutdown_timeout,
            log_level=log_level,
            log_format=log_format,
        )
    )
    prepare_grpc()
    from target.cli.worker import run_worker

    run_worker(config)
