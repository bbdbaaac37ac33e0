"""lunmesh.worker.v2.Control: shares of volumes, status, fences, drain.

What a store says (no space, read-only …) is a status in the response.  What is wrong with the
request itself is a gRPC status: INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from grpc import aio
from lunmesh.worker.v2 import worker_pb2 as pb
from lunmesh.worker.v2 import worker_pb2_grpc

from workers.fences import FenceError
from workers.file_store import STATUS_BY_ERRNO
from workers.grants import Grants
from workers.limits import LIST_MAX, NODE_CHARS_MAX, sendable
from workers.nodes import StaleEpoch, TooManyNodes
from workers.shares import PLACE_CHARS_MAX, UUID_BYTES, ShareError, ShareFault, ShareInfo
from workers.store import StoreStatus
from workers.wire import STATUS_TO_WIRE
from workers.worker import Worker

CODE_OF_FAULT: Final = {
    ShareFault.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    ShareFault.EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    ShareFault.MISSING: grpc.StatusCode.NOT_FOUND,
    ShareFault.UNUSABLE: grpc.StatusCode.FAILED_PRECONDITION,
}
STATUS_OF_AWAY: Final = {  # of an engine: it does not answer, or has shut this process out
    errno.ETIMEDOUT: StoreStatus.UNAVAILABLE,
    errno.ESHUTDOWN: StoreStatus.UNAVAILABLE,
}
TIMEOUT_MS_MAX: Final = 3_600_000
INSTANCE_CHARS_MAX: Final = 256

Context = aio.ServicerContext[Any, Any]


class ControlService(worker_pb2_grpc.ControlServicer):
    """The control calls of ``worker``.  ``drain_begins`` tells those who look at its health.

    ``grants``: for nodes on the same machine.
    """

    def __init__(
        self, worker: Worker, drain_begins: Callable[[], Awaitable[None]], grants: Grants | None
    ) -> None:
        self._worker = worker
        self._grants = grants
        self._drain_begins = drain_begins

    async def CreateVolume(
        self, request: pb.CreateVolumeRequest, context: Context
    ) -> pb.CreateVolumeResponse:
        info = _info(request.share)
        status, detail = await self._outcome(context, self._worker.shares.create(info))
        return pb.CreateVolumeResponse(status=status, detail=detail)

    async def OpenVolume(
        self, request: pb.OpenVolumeRequest, context: Context
    ) -> pb.OpenVolumeResponse:
        worker = self._worker
        if worker.refusing:
            status = STATUS_TO_WIRE[StoreStatus.UNAVAILABLE]
            return pb.OpenVolumeResponse(status=status, detail=worker.refusing)
        await _check_node(request.node, context)
        if request.HasField("checksum") and request.checksum != worker.checksum:
            ours, theirs = ("on", "off") if worker.checksum else ("off", "on")
            detail = f"the worker has checksum {ours}, the node worker-checksum {theirs}"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, detail)
        try:
            worker.nodes.check(request.node, request.epoch)
        except StaleEpoch as exc:
            status = STATUS_TO_WIRE[StoreStatus.STALE_EPOCH]
            return pb.OpenVolumeResponse(status=status, detail=str(exc))
        status, detail = await self._outcome(context, worker.shares.open(request.uuid))
        if status != STATUS_TO_WIRE[StoreStatus.OK]:
            return pb.OpenVolumeResponse(status=status, detail=detail)
        share = worker.shares.get(request.uuid)
        try:  # again: opening took time
            node = worker.nodes.enter(request.node, request.epoch)
        except StaleEpoch as exc:
            status = STATUS_TO_WIRE[StoreStatus.STALE_EPOCH]
            return pb.OpenVolumeResponse(status=status, detail=str(exc))
        except TooManyNodes as exc:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(exc))
        if share.store is None:  # deleted meanwhile
            await context.abort(grpc.StatusCode.NOT_FOUND, "the volume has been deleted")
        handle = worker.nodes.open_volume(node, share)
        shares = worker.shares
        return pb.OpenVolumeResponse(
            status=status,
            handle=handle,
            share=_message(share.info),
            shared=shares.shared,
            store_id=shares.store_id,
            instance=shares.instance,
            volatile_id=shares.volatile_id_of(share),
            read_token=self._grants.offer(share.store) if self._grants is not None else b"",
            read_only=share.store.read_only,
            others=[
                pb.NodeFence(node=name, epoch=epoch)
                for name, epoch in worker.nodes.others(node, share)[:LIST_MAX]
            ],
        )

    async def ResizeVolume(
        self, request: pb.ResizeVolumeRequest, context: Context
    ) -> pb.ResizeVolumeResponse:
        resized = self._worker.shares.resize(request.uuid, request.size)
        status, detail = await self._outcome(context, resized)
        return pb.ResizeVolumeResponse(status=status, detail=detail)

    async def DeleteVolume(
        self, request: pb.DeleteVolumeRequest, context: Context
    ) -> pb.DeleteVolumeResponse:
        if len(request.uuid) != UUID_BYTES or len(request.place) > PLACE_CHARS_MAX:
            # They are remembered: Shares.bury.
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "bad UUID or place")
        store_id = request.store_id if request.HasField("store_id") else None
        deleted = self._worker.delete(request.uuid, request.place, store_id)
        status, detail = await self._outcome(context, deleted)
        return pb.DeleteVolumeResponse(status=status, detail=detail)

    async def ListVolumes(
        self, request: pb.ListVolumesRequest, context: Context
    ) -> pb.ListVolumesResponse:
        limit = min(request.limit or LIST_MAX, LIST_MAX)
        status, detail = await self._outcome(context, self._worker.shares.refresh())
        if status != STATUS_TO_WIRE[StoreStatus.OK]:
            await context.abort(grpc.StatusCode.UNAVAILABLE, detail)
        shares = self._worker.shares.list_after(request.after, limit)
        return pb.ListVolumesResponse(shares=[_message(info) for info in shares])

    async def GetStatus(
        self, request: pb.GetStatusRequest, context: Context
    ) -> pb.GetStatusResponse:
        worker = self._worker
        return pb.GetStatusResponse(
            worker=worker.name,
            store=worker.shares.kind,
            version=worker.version,
            draining=worker.draining,
            buffer_bytes=worker.memory.total_bytes,
            buffer_bytes_used=worker.memory.used,
            operations_running=worker.running,
            fences=[
                pb.NodeFence(node=node, epoch=epoch) for node, epoch in worker.fences.some(LIST_MAX)
            ],
            shared=worker.shares.shared,
            store_id=worker.shares.store_id,
            instance=worker.shares.instance,
        )

    async def Fence(self, request: pb.FenceRequest, context: Context) -> pb.FenceResponse:
        node, epoch = request.fence.node, request.fence.epoch
        await _check_node(node, context)
        self._worker.log.warning("fence", node=node, epoch=epoch)
        fenced = self._worker.nodes.fence(node, epoch)
        try:
            status, detail = await self._outcome(context, _within(request.timeout_ms, fenced))
        except FenceError as exc:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(exc))
        return pb.FenceResponse(status=status, detail=detail)

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        self._worker.log.info("draining")
        await self._drain_begins()
        try:
            status, detail = await _within(request.timeout_ms, self._worker.drain())
        except TimeoutError:
            status, detail = StoreStatus.DEADLINE, "I/Os still run"
        return pb.DrainResponse(status=STATUS_TO_WIRE[status], detail=detail)

    async def Evict(self, request: pb.EvictRequest, context: Context) -> pb.EvictResponse:
        shares = self._worker.shares
        if not 1 <= len(request.instance) <= INSTANCE_CHARS_MAX:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "bad instance")
        if request.store_id != shares.store_id:
            detail = f"this worker has store {shares.store_id or shares.kind}"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, detail)
        self._worker.log.warning("evict", instance=request.instance)
        evicted = _within(request.timeout_ms, shares.evict(request.instance))
        status, detail = await self._outcome(context, evicted)
        return pb.EvictResponse(status=status, detail=detail)

    async def _outcome(self, context: Context, done: Awaitable[object]) -> tuple[Any, str]:
        """(status, detail) of what may fail; a request that is wrong ends the call."""
        try:
            await done
        except ShareError as exc:
            await context.abort(CODE_OF_FAULT[exc.fault], sendable(str(exc)))
        except TimeoutError:
            return STATUS_TO_WIRE[StoreStatus.DEADLINE], "I/Os still run"
        except OSError as exc:
            status = STATUS_OF_AWAY.get(exc.errno or 0) or STATUS_BY_ERRNO.get(
                exc.errno or 0, StoreStatus.WRITE_FAILED
            )
            detail = f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc.strerror)
            self._worker.log.error("control call failed", reason=detail)
            return STATUS_TO_WIRE[status], sendable(detail)
        return STATUS_TO_WIRE[StoreStatus.OK], ""


async def _within(timeout_ms: int, wait: Awaitable[Any]) -> Any:
    """Raises TimeoutError; 0 is the longest that there is, not none at all."""
    async with asyncio.timeout(min(timeout_ms or TIMEOUT_MS_MAX, TIMEOUT_MS_MAX) / 1000):
        return await wait


async def _check_node(node: str, context: Context) -> None:
    if not 1 <= len(node) <= NODE_CHARS_MAX or not node.isprintable():
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "bad node id")


def _info(share: pb.VolumeShare) -> ShareInfo:
    return ShareInfo(
        share.name,
        share.uuid,
        share.size,
        share.chunk_bytes,
        share.block_bytes,
        share.place,
    )


def _message(info: ShareInfo) -> pb.VolumeShare:
    return pb.VolumeShare(
        name=info.name,
        uuid=info.uuid,
        size=info.size,
        chunk_bytes=info.chunk_bytes,
        block_bytes=info.block_bytes,
        place=info.place,
    )
