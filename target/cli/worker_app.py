"""``lunmesh worker``: its flags.  What it does stands in ``target/cli/worker.py``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from target.cli.flags import flag, given, number
from target.config.options import WorkerOptions
from target.config.worker import load_worker_config
from workers.grpc_environment import prepare_grpc


def worker(
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Options from a TOML file.")
    ] = None,
    listen: Annotated[
        str | None,
        flag("Worker", "Where target nodes reach it. Required.", "HOST:PORT|unix:PATH"),
    ] = None,
    store: Annotated[
        str | None,
        flag(
            "Worker",
            "What keeps the volumes: file:DIR, memory: or rados:POOL[@CONF]. Required.",
            "STORE",
        ),
    ] = None,
    buffer_memory: Annotated[
        str | None, flag("Tuning", "Memory for data on its way. [default: 256M]", "SIZE")
    ] = None,
    io_threads: Annotated[
        str | None,
        flag(
            "Tuning",
            "Threads that one node may keep waiting for a disk, at one volume. [default: 8]",
            "N",
        ),
    ] = None,
    tls_cert: Annotated[
        str | None, flag("Access", "The worker's certificate, PEM.", "FILE")
    ] = None,
    tls_key: Annotated[str | None, flag("Access", "Its private key, PEM.", "FILE")] = None,
    tls_ca: Annotated[
        str | None,
        flag("Access", "Only nodes whose certificate this one has signed may come in.", "FILE"),
    ] = None,
    tls_client_name: Annotated[
        str | None,
        flag(
            "Access", "And only if it has this DNS name (subject alternative name).", "NAME|*.NAME"
        ),
    ] = None,
    insecure: Annotated[
        bool | None, flag("Access", "Listen for other machines without TLS: everybody may come in.")
    ] = None,
    checksum: Annotated[
        str | None, flag("Tuning", "CRC32C of all data on the wire. [default: on]", "on|off")
    ] = None,
    direct_reads: Annotated[
        str | None,
        flag("Tuning", "Nodes on this machine may read files themselves. [default: on]", "on|off"),
    ] = None,
    busy_poll: Annotated[
        str | None,
        flag(
            "Tuning",
            "How long to look for the next I/O of a node on this machine that has one at a time"
            " before sleeping, 0 to 1000 µs. [default: 300]",
            "MICROSECONDS",
        ),
    ] = None,
    redis: Annotated[
        str | None,
        flag(
            "Access",
            "Where the nodes' --redis is: ask there, before serving, whose epochs are over. Also "
            "from LUNMESH_REDIS.",
            "URL",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        flag("Log", "Tell Prometheus there, /metrics; also /healthz and /readyz.", "[HOST:]PORT"),
    ] = None,
    fault: Annotated[
        str | None,
        flag(
            "Tests",
            "Misbehave: delay=200ms,stall=200ms,error=0.01,torn=0.01,lost-flush=0.1,drop=0.5,"
            "volume=NAME,seed=1.",
            "SPEC",
        ),
    ] = None,
    shutdown_timeout: Annotated[
        str | None,
        flag("Tuning", "How long running I/O may take at the end. [default: 10]", "SECONDS"),
    ] = None,
    log_level: Annotated[
        str | None, flag("Log", "debug, info, warning or error. [default: info]", "LEVEL")
    ] = None,
    log_format: Annotated[
        str | None, flag("Log", "text or json. [default: text]", "FORMAT")
    ] = None,
) -> None:
    """Keep volumes' data for target nodes, which reach it over gRPC."""
    flags = WorkerOptions(
        listen=given(listen),
        store=given(store),
        buffer_memory=given(buffer_memory),
        io_threads=number("io-threads", io_threads, int),
        tls_cert=given(tls_cert),
        tls_key=given(tls_key),
        tls_ca=given(tls_ca),
        tls_client_name=given(tls_client_name),
        insecure=given(insecure),
        checksum=given(checksum),
        direct_reads=given(direct_reads),
        busy_poll=number("busy-poll", busy_poll, int),
        redis=given(redis),
        metrics=given(metrics),
        fault=given(fault),
        shutdown_timeout=number("shutdown-timeout", shutdown_timeout, float),
        log_level=given(log_level),
        log_format=given(log_format),
    )
    loaded = load_worker_config(flags, file=config, environ=os.environ)
    prepare_grpc()
    from target.cli.worker import run_worker

    run_worker(loaded)
