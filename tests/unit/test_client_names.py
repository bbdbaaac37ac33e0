"""Which certificates a worker takes by their names, and over each kind of call."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from lunmesh.worker.v2 import worker_pb2 as pb
from lunmesh.worker.v2 import worker_pb2_grpc

from tests.support.certificates import make_authority, make_certificate
from workers.client_names import is_named, parse_client_name
from workers.server import TlsFiles, WorkerServer
from workers.shares import MemoryShares
from workers.worker import Worker


@pytest.mark.parametrize(
    ("names", "wanted", "found"),
    [
        (["lunmesh-node"], "lunmesh-node", True),
        (["worker-1", "Lunmesh-Node"], "lunmesh-node", True),
        (["worker-1"], "lunmesh-node", False),
        (["lunmesh-node.evil"], "lunmesh-node", False),
        ([], "lunmesh-node", False),
        (["a.nodes"], "*.nodes", True),
        (["a.b.nodes"], "*.nodes", False),
        (["nodes"], "*.nodes", False),
        ([".nodes"], "*.nodes", False),
        (["x@a.nodes"], "*.nodes", False),
        (["*.nodes"], "a.nodes", False),
    ],
)
def test_names_are_compared_label_by_label(names: list[str], wanted: str, found: bool) -> None:
    assert is_named(names, wanted) is found


def test_a_name_is_one_of_dns() -> None:
    assert parse_client_name("*.Nodes.lunmesh") == "*.nodes.lunmesh"
    for bad in ("", "*", "a..b", "*.", "a.*", "-a", "a b", "a/b", "x" * 300):
        with pytest.raises(ValueError, match="bad name"):
            parse_client_name(bad)


async def calls(target: str, credentials: grpc.ChannelCredentials) -> list[grpc.StatusCode]:
    """How a call of each kind and service ends."""
    async with aio.secure_channel(target, credentials) as channel:
        control: Any = worker_pb2_grpc.ControlStub  # generated, untyped
        unary = control(channel).GetStatus(pb.GetStatusRequest())
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        with contextlib.suppress(aio.AioRpcError):
            async for _ in reflection:  # it ends when its answers have been read
                pass
        return [await call.code() for call in (unary, health, reflection)]


def test_every_call_is_judged(tmp_path: Path) -> None:
    authority = make_authority(tmp_path, "ca")
    pair = make_certificate(tmp_path, authority, "worker")
    node = make_certificate(tmp_path, authority, "node", ",DNS:lunmesh-node")

    async def run() -> None:
        worker = Worker(MemoryShares(), buffer_memory_bytes=16 << 20, io_threads=1)
        server = WorkerServer(worker, "127.0.0.1:0", TlsFiles(*pair, authority, "lunmesh-node"))
        port = await server.start()
        try:
            for shown, status in (
                (node, grpc.StatusCode.OK),
                (pair, grpc.StatusCode.PERMISSION_DENIED),
            ):
                credentials = grpc.ssl_channel_credentials(
                    authority.read_bytes(), shown[1].read_bytes(), shown[0].read_bytes()
                )
                assert await calls(f"localhost:{port}", credentials) == [status] * 3
        finally:
            await server.stop(1)
            await worker.stop()

    asyncio.run(run())
