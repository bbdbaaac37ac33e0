"""A worker's gRPC server: where it listens, how it notices dead peers, how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection
from lunmesh.worker.v2 import worker_pb2, worker_pb2_grpc

from workers.callers import NamedCallers
from workers.control_service import ControlService
from workers.data_service import DataService
from workers.grants import Grants
from workers.limits import MESSAGE_BYTES_MAX
from workers.nodes import End
from workers.store import StoreStatus
from workers.worker import Worker

# A peer that is gone without a word (power, cable, SIGSTOP) is noticed within the sum of these; its
# calls then end as if it had hung up.
KEEPALIVE_SECONDS: Final = 4
KEEPALIVE_TIMEOUT_SECONDS: Final = 3
PING_INTERVAL_SECONDS_MIN: Final = 1  # a node may ping this often
CALLS_MAX: Final = 1024
STOP_GRACE_SECONDS: Final = 1.0

SERVICES: Final = tuple(
    worker_pb2.DESCRIPTOR.services_by_name[name].full_name for name in ("Data", "Control")
)
OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_SECONDS_MIN * 1000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_INTERVAL_SECONDS_MIN * 1000),
    ("grpc.so_reuseport", 0),  # two workers on one port would share it silently
)


class ServerError(Exception):
    """It cannot listen; one line."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files.  With ``ca``, clients must show a certificate that it has signed.

    With ``client_name``, one for that name (client_names.py).
    """

    certificate: Path
    key: Path
    ca: Path | None = None
    client_name: str | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Raises OSError."""
        pair = self.key.read_bytes(), self.certificate.read_bytes()
        ca = self.ca.read_bytes() if self.ca is not None else None
        return grpc.ssl_server_credentials([pair], ca, require_client_auth=ca is not None)


class WorkerServer:
    """Serves ``worker`` at ``address``: HOST:PORT or unix:PATH, as gRPC writes them.

    ``direct_reads``: nodes on this machine may read files themselves (grants.py).
    """

    def __init__(
        self,
        worker: Worker,
        address: str,
        tls: TlsFiles | None = None,
        *,
        direct_reads: bool = True,
    ) -> None:
        self._worker = worker
        self._address = address
        self._tls = tls
        self._health = health.HealthServicer()
        local = direct_reads and address.startswith("unix:")
        self._grants = Grants(address.removeprefix("unix:")) if local else None
        self._server: aio.Server | None = None
        self._telling: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Accept connections; returns the port, 1 for a Unix socket.

        Raises ServerError, and OSError for files that cannot be read.
        """
        name = self._tls.client_name if self._tls is not None else None
        judges = [] if name is None else [NamedCallers(name)]
        server = aio.server(interceptors=judges, options=OPTIONS, maximum_concurrent_rpcs=CALLS_MAX)
        server.add_generic_rpc_handlers((DataService(self._worker, self._grants).handler(),))
        add_control: Any = worker_pb2_grpc.add_ControlServicer_to_server  # generated, untyped
        control = ControlService(self._worker, self._health.enter_graceful_shutdown, self._grants)
        add_control(control, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
        port = self._bind(server)
        if self._grants is not None:
            try:
                self._grants.start()
            except OSError as exc:  # a path that is too long for one more suffix
                self._worker.log.warning("no direct reads", reason=str(exc))
        await server.start()
        self._server = server
        await self._tell_health()
        self._worker.refusing_changed = self._refusing_changed
        return port

    def _refusing_changed(self) -> None:
        self._telling = asyncio.ensure_future(self._tell_health())

    async def _tell_health(self) -> None:
        """As the worker is now; nothing more once it stops."""
        serving = health_pb2.HealthCheckResponse.SERVING
        status = health_pb2.HealthCheckResponse.NOT_SERVING if self._worker.refusing else serving
        for name in ("", *SERVICES):
            await self._health.set(name, status)

    def _bind(self, server: aio.Server) -> int:
        credentials = self._tls.credentials() if self._tls is not None else None
        _refuse_taken_socket(self._address)
        mask = os.umask(0o077)  # a Unix socket is for its owner
        try:
            if credentials is None:
                return server.add_insecure_port(self._address)
            return server.add_secure_port(self._address, credentials)
        except RuntimeError as exc:
            reason = str(exc).partition(";")[0]  # behind it is advice for users of gRPC
            raise ServerError(f"cannot listen: {reason[:1].lower()}{reason[1:]}") from exc
        finally:
            os.umask(mask)

    async def stop(self, timeout_seconds: float) -> str:
        """Say that we go, finish what runs within the bound, flush, end the streams.

        Returns what was not to be made durable, and why; empty: nothing was left.
        """
        worker = self._worker
        problem = ""
        await self._health.enter_graceful_shutdown()
        try:
            async with asyncio.timeout(timeout_seconds):
                status, detail = await worker.drain()
            if status is not StoreStatus.OK:
                problem = f"the last flush failed: {detail}"
        except TimeoutError:
            worker.log.error("I/Os still run", number=worker.running)
            if not worker.shares.shared:  # there, what was answered is durable
                problem = f"I/Os still ran after {timeout_seconds:g} s, and nothing was flushed"
        for node in worker.nodes.all():
            node.end_stream(End.STOPPING)
        if self._grants is not None:
            await self._grants.stop()
        if self._server is not None:
            await self._server.stop(STOP_GRACE_SECONDS)
        return problem


def _refuse_taken_socket(address: str) -> None:
    """gRPC takes a Unix socket's path from whoever has it; that is right for a dead one only."""
    if not address.startswith("unix:"):
        return
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(address.removeprefix("unix:"))
        raise ServerError(f"cannot listen on {address}: it is in use")
