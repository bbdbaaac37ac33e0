"""gRPC to one worker: a channel, its control calls and its data stream.

The only module of the target that knows gRPC: whatever goes wrong with it is a :class:`WorkerGone`
or a :class:`NodeFenced` to the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc import aio
from lunmesh.worker.v2 import worker_pb2 as pb
from lunmesh.worker.v2 import worker_pb2_grpc

from target.block.worker_address import WorkerAddress, WorkerTls
from target.block.worker_errors import NodeFenced, NoSuchShare, ShareRefused, WorkerGone
from workers.limits import MESSAGE_BYTES_MAX
from workers.store import StoreStatus
from workers.wire import STATUS_FROM_WIRE, STREAM_METHOD, Parts

# A peer that is silent for this long is asked; without an answer for as long again it is gone.
KEEPALIVE_SECONDS: Final = 2.0
KEEPALIVE_TIMEOUT_SECONDS: Final = 3.0
CALL_SECONDS_MAX: Final = 5.0  # of a control call
DETAIL_CHARS_MAX: Final = 200
PROTOCOL: Final = pb.DESCRIPTOR.package

_OPTIONS: Final = [
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", int(KEEPALIVE_SECONDS * 1000)),
    ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_SECONDS * 1000)),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Retries are ours (worker_queue.py); gRPC must not repeat anything by itself.
    ("grpc.enable_retries", 0),
    # Each attempt is a connection of its own, not one that another channel has given up.
    ("grpc.use_local_subchannel_pool", 1),
    # http_proxy is for the web.
    ("grpc.enable_http_proxy", 0),
]


@dataclass(frozen=True, slots=True)
class ShareInfo:
    """A volume, as a worker knows it."""

    name: str
    uuid: bytes
    size: int  # bytes of the whole volume
    chunk_bytes: int
    block_bytes: int
    place: str = ""  # which part of the chunks this is; empty where any worker has all


@dataclass(frozen=True, slots=True)
class OpenedShare:
    """A volume that was opened (the fields: worker.proto, OpenVolumeResponse)."""

    handle: int
    info: ShareInfo
    shared: bool
    store_id: str
    instance: str
    volatile_id: str
    read_token: bytes = b""
    others: tuple[tuple[str, int], ...] = ()  # nodes and their epochs


class WorkerStream:
    """The data stream.  Messages are bytes of workers/wire.py."""

    def __init__(self, call: aio.StreamStreamCall[bytes, bytes]) -> None:
        self._call = call

    async def write(self, message: Parts) -> None:
        """Returns when the message is on its way, which is when the next one may be made."""
        try:
            await self._call.write(b"".join(message))
        except aio.AioRpcError as exc:
            raise _gone(exc) from exc
        except (
            asyncio.InvalidStateError,
            aio.BaseError,
        ) as exc:  # the call has ended: read() knows why
            raise WorkerGone("the stream has ended") from exc

    async def read(self) -> bytes:
        """The next message; raises WorkerGone at the end of the stream."""
        try:
            data: Any = await self._call.read()
            if data is not aio.EOF:
                return bytes(data)
            code, detail = await self._call.code(), await self._call.details()
        except aio.AioRpcError as exc:
            if exc.code() is grpc.StatusCode.FAILED_PRECONDITION:
                raise NodeFenced(_text(exc)) from exc
            raise _gone(exc) from exc
        except asyncio.CancelledError:
            if not self._call.cancelled() or _is_cancelled():
                raise
            raise WorkerGone("the stream was cut") from None  # by cancel() below
        except aio.BaseError as exc:  # the channel was closed under it
            raise WorkerGone(str(exc)) from exc
        if code is grpc.StatusCode.FAILED_PRECONDITION:
            raise NodeFenced(detail)
        raise WorkerGone(f"the stream has ended: {detail or code.name}"[:DETAIL_CHARS_MAX])

    def cancel(self) -> None:
        """End the stream."""
        self._call.cancel()


class WorkerChannel:
    """A connection to a worker: one attempt, never reused after it has failed."""

    def __init__(
        self, address: WorkerAddress, tls: WorkerTls | None = None, checksum: bool | None = None
    ) -> None:
        self._checksum = checksum  # which the worker has to agree to; None: it need not
        target = f"unix:{address.unix_path}" if address.unix_path else str(address)
        if tls is not None and not address.unix_path:
            credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)
            self._channel = aio.secure_channel(target, credentials, options=_OPTIONS)
        else:
            self._channel = aio.insecure_channel(target, options=_OPTIONS)
        stub: Any = worker_pb2_grpc.ControlStub  # generated, untyped
        self._control = stub(self._channel)

    async def status(self) -> None:
        """Raises WorkerGone if it is leaving."""
        if (await self._status(_LIMIT)).draining:
            raise WorkerGone("the worker is draining")

    async def store_id(self) -> str:
        """Of the shared store that the worker has; empty: it has a local one."""
        answer = await self._status(_LIMIT)
        return str(answer.store_id) if answer.shared else ""

    async def probe(self, seconds: float) -> None:
        """Hear from it, or raise WorkerGone: a process that is stopped keeps its sockets open."""
        await self._status(seconds)

    async def _status(self, seconds: float) -> Any:
        return await _called(self._control.GetStatus, pb.GetStatusRequest(), seconds)

    async def create_volume(self, info: ShareInfo) -> None:
        """Make an empty share; one that is there already, and the same, is as good."""
        share = pb.VolumeShare(
            name=info.name,
            uuid=info.uuid,
            size=info.size,
            chunk_bytes=info.chunk_bytes,
            block_bytes=info.block_bytes,
            place=info.place,
        )
        request = pb.CreateVolumeRequest(share=share)
        _check(await _called(self._control.CreateVolume, request, _LIMIT))

    async def resize_volume(self, uuid: bytes, size: int) -> None:
        """Grow a share."""
        request = pb.ResizeVolumeRequest(uuid=uuid, size=size)
        _check(await _called(self._control.ResizeVolume, request, _LIMIT))

    async def open_volume(self, node: str, epoch: int, uuid: bytes) -> OpenedShare:
        """A handle for the share, the same as before from the same process."""
        request = pb.OpenVolumeRequest(node=node, epoch=epoch, uuid=uuid, checksum=self._checksum)
        answer = await _called(self._control.OpenVolume, request, _LIMIT)
        _check(answer)
        s = answer.share
        info = ShareInfo(s.name, s.uuid, s.size, s.chunk_bytes, s.block_bytes, s.place)
        return OpenedShare(
            answer.handle,
            info,
            answer.shared,
            answer.store_id,
            answer.instance,
            answer.volatile_id,
            answer.read_token,
            tuple((other.node, other.epoch) for other in answer.others),
        )

    async def evict(self, store_id: str, instance: str, seconds: float) -> None:
        """Have this worker shut another one's process out at the engine of their shared store.

        Raises ShareRefused or WorkerGone where it could not.
        """
        request = pb.EvictRequest(
            store_id=store_id, instance=instance, timeout_ms=int(seconds * 1000)
        )
        _check(await _called(self._control.Evict, request, seconds))

    async def fence(self, node: str, epoch: int, seconds: float) -> None:
        """Have the worker refuse that epoch of a node, and wait until nothing of it runs there.

        Raises WorkerGone where that is not known.
        """
        request = pb.FenceRequest(
            fence=pb.NodeFence(node=node, epoch=epoch), timeout_ms=int(seconds * 1000)
        )
        answer = await _called(self._control.Fence, request, seconds + _LIMIT)
        if STATUS_FROM_WIRE.get(answer.status) is not StoreStatus.OK:
            raise WorkerGone(answer.detail[:DETAIL_CHARS_MAX] or "it could not")

    async def delete_volume(
        self, uuid: bytes, place: str = "", store_id: str | None = None
    ) -> None:
        """Remove a share and its data; one that is not there is as good.

        Raises ShareRefused for one of another ``place``, or in another store than ``store_id``, if
        these are given (worker.proto, DeleteVolumeRequest), and WorkerGone.
        """
        request = pb.DeleteVolumeRequest(uuid=uuid, place=place, store_id=store_id)
        _check(await _called(self._control.DeleteVolume, request, _LIMIT))

    def stream(self) -> WorkerStream:
        """A new data stream."""
        return WorkerStream(self._channel.stream_stream(STREAM_METHOD)())

    async def close(self) -> None:
        """End the connection and all that is on it."""
        await self._channel.close()


_LIMIT: Final = CALL_SECONDS_MAX


async def _called(method: Callable[..., Awaitable[Any]], request: Any, seconds: float) -> Any:
    """The answer of a control call.

    Where somebody else closes the channel meanwhile, gRPC cancels whoever waits for the answer.
    """
    try:
        return await method(request, timeout=seconds)
    except asyncio.CancelledError:
        if _is_cancelled():
            raise
        raise WorkerGone("the connection was given up") from None
    except aio.BaseError as exc:  # it was closed already
        raise WorkerGone(str(exc)) from exc
    except aio.AioRpcError as exc:
        code = exc.code()
        if code is grpc.StatusCode.NOT_FOUND:
            raise NoSuchShare(_text(exc)) from exc
        if code in _REFUSALS:
            raise ShareRefused(_text(exc)) from exc
        raise _gone(exc) from exc


def _is_cancelled() -> bool:
    """Whether it is this task that is to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


_REFUSALS: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
    }
)


def _check(answer: Any) -> None:
    """The store's part of an answer."""
    status = STATUS_FROM_WIRE.get(answer.status)
    if status is StoreStatus.OK:
        return
    detail = answer.detail[:DETAIL_CHARS_MAX] or (status.value if status else "no status")
    if status is StoreStatus.STALE_EPOCH:
        raise NodeFenced(detail)
    if status is StoreStatus.UNAVAILABLE:
        raise WorkerGone(detail)
    raise ShareRefused(detail)


# What gRPC says where the other side hung up before anything was said, and what that may be.
_HINTS: Final = {
    "Socket closed": "Socket closed: does the worker want TLS (worker-ca)?",
    "Secure read failed (Socket closed)": "Socket closed: does the worker want a certificate"
    " (worker-cert)?",
}


def _text(exc: aio.AioRpcError) -> str:
    if exc.code() is grpc.StatusCode.UNIMPLEMENTED:
        return f"it does not know all of {PROTOCOL}: lunmesh has another version there"
    text = exc.details() or exc.code().name
    if text.startswith("failed to connect"):  # to all addresses, of which there is one
        reason = text.removesuffix(": OK").rpartition(": ")[2]  # what the kernel or TLS says
        text = f"cannot connect: {_HINTS.get(reason, reason)}"
    return text[:DETAIL_CHARS_MAX]


def _gone(exc: aio.AioRpcError) -> WorkerGone:
    return WorkerGone(_text(exc))
