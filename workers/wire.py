"""The messages of Data.Stream: packed arrays and one run of payload bytes, to and from I/Os.

Both ends of a stream use it: a target node packs :class:`Outgoing` and unpacks :class:`Answers`,
a worker unpacks a :class:`Batch` and packs :class:`Answer`.  The stream is opened with
``STREAM_METHOD`` and without serializers, so that gRPC hands bytes in and out; they are the
protobuf messages of worker.proto all the same.

Rules:

1. Payload is copied once on its way out, into the message, and not at all on its way in: what was
   received stays where it is, and its I/Os have slices of it.  The protobuf runtime would copy it
   twice each way; it never sees that field here.
2. A message is checked whole before any of it is used: bounds, lengths of arrays, kinds, the sum of
   the payload, CRC32C.  What is wrong with it is a :class:`WireError`; a peer cannot cause another
   exception.
3. Ours is asserted: what is handed to ``pack_…`` keeps the bounds of workers/limits.py.

``target/block`` may import this module, as it may ``workers.store`` and ``workers.limits``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from lunmesh.worker.v1 import worker_pb2

from workers.limits import (
    EXTENT_BYTES,
    EXTENTS_MAX,
    IO_BYTES_MAX,
    MESSAGE_IOS_MAX,
    NODE_CHARS_MAX,
    RANGE_BYTES_MAX,
)
from workers.store import IoKind, StatusExtent, StoreIo, StoreStatus
from workers.wire_fields import WireError as WireError
from workers.wire_fields import WireFault as WireFault
from workers.wire_fields import (
    check_arrays,
    checksum_of,
    join_payload,
    mapped,
    parse,
    slices_of,
)

STREAM_METHOD: Final = "/lunmesh.worker.v1.Data/Stream"
FLAG_FUA: Final = 1

KIND_TO_WIRE: Final[dict[IoKind, Any]] = {
    k: worker_pb2.Kind.Value(f"KIND_{k.name}") for k in IoKind
}
KIND_FROM_WIRE: Final[dict[int, IoKind]] = {number: kind for kind, number in KIND_TO_WIRE.items()}
STATUS_TO_WIRE: Final[dict[StoreStatus, Any]] = {
    s: worker_pb2.Status.Value(f"STATUS_{s.name}") for s in StoreStatus
}
STATUS_FROM_WIRE: Final[dict[int, StoreStatus]] = {
    number: status for status, number in STATUS_TO_WIRE.items()
}

_BATCH_PAYLOAD: Final = worker_pb2.IoBatch.DESCRIPTOR.fields_by_name["payload"].number
_ANSWERS_PAYLOAD: Final = worker_pb2.IoAnswers.DESCRIPTOR.fields_by_name["payload"].number
_EXTENT: Final = struct.Struct("<QB")


class Outgoing(NamedTuple):
    """An I/O as a node sends it."""

    sequence: int  # unique within (node, epoch), the same when it is sent again; not 0
    volume: int  # handle from Control.OpenVolume
    deadline_ms: int  # from receipt; 0: none
    io: StoreIo


class WireIo(NamedTuple):
    """An I/O as a worker receives it.  A COMPARE_AND_WRITE has 2 * ``length`` of payload."""

    sequence: int
    kind: IoKind
    volume: int
    offset: int  # bytes; not yet checked against the volume
    length: int  # bytes
    fua: bool
    deadline_ms: int
    payload: memoryview


class Batch(NamedTuple):
    """A message from a node."""

    node: str
    epoch: int
    number: int  # of the message on its stream, from 1
    ios: list[WireIo]
    cancel: list[int]
    answer_credit: int  # bytes
    payload_bytes: int


class Answer(NamedTuple):
    """How an I/O ended.  ``payload``: data of a READ, runs of a BLOCK_STATUS."""

    sequence: int
    status: StoreStatus
    payload: Sequence[memoryview] = ()
    miscompare_offset: int = 0  # bytes from the start of the compared range


class Answers(NamedTuple):
    """A message from a worker."""

    number: int  # of the message on its stream, from 1
    answers: list[Answer]
    request_credit: int  # bytes
    detail: str  # for people, of the first I/O that failed
    payload_bytes: int


def request_bytes(kind: IoKind, length: int) -> int:
    """Payload bytes that an I/O brings along: what it takes of ``request_credit``."""
    if kind is IoKind.WRITE:
        return length
    return 2 * length if kind is IoKind.COMPARE_AND_WRITE else 0


def answer_bytes_max(kind: IoKind, length: int) -> int:
    """Payload bytes that its answer may bring: what it may take of ``answer_credit``."""
    if kind is IoKind.READ:
        return length
    return EXTENT_BYTES * EXTENTS_MAX if kind is IoKind.BLOCK_STATUS else 0


def length_max(kind: IoKind) -> int:
    """Bytes of the range of one I/O of this kind; longer ones are cut by the node."""
    if kind in (IoKind.READ, IoKind.WRITE, IoKind.COMPARE_AND_WRITE):
        return IO_BYTES_MAX
    return RANGE_BYTES_MAX


# --- a node's side -------------------------------------------------------------------------------


def pack_batch(
    node: str,
    epoch: int,
    number: int,
    ios: Sequence[Outgoing],
    *,
    cancel: Sequence[int] = (),
    answer_credit: int = 0,
    checksum: bool = True,
) -> bytes:
    """A message of ``ios``.  A FLUSH goes without its range: it is of the whole volume."""
    assert max(len(ios), len(cancel)) <= MESSAGE_IOS_MAX, "rule 3"
    crcs: list[int] = []
    views: list[memoryview] = []
    for _, _, _, io in ios:
        assert io.length <= length_max(io.kind) or io.kind is IoKind.FLUSH, "rule 3"
        carried = [*io.compare, *io.buffers] if request_bytes(io.kind, io.length) else []
        crcs.append(checksum_of(carried) if checksum and carried else 0)
        views += carried
    flush = IoKind.FLUSH
    head = worker_pb2.IoBatch(
        node=node,
        epoch=epoch,
        batch=number,
        sequence=[out.sequence for out in ios],
        kind=[KIND_TO_WIRE[out.io.kind] for out in ios],
        volume=[out.volume for out in ios],
        offset=[0 if out.io.kind is flush else out.io.offset for out in ios],
        length=[0 if out.io.kind is flush else out.io.length for out in ios],
        flags=[FLAG_FUA * out.io.fua for out in ios],
        deadline_ms=[out.deadline_ms for out in ios],
        crc32c=crcs,
        cancel=cancel,
        answer_credit=answer_credit,
    )
    return join_payload(head, _BATCH_PAYLOAD, views)


def unpack_answers(data: bytes, *, checksum: bool = True) -> Answers:
    """What a worker has sent; raises :class:`WireError`.  Payload is slices of ``data``."""
    head, payload = parse(data, worker_pb2.IoAnswers, _ANSWERS_PAYLOAD)
    sequence = list(head.sequence)
    status = mapped(head.status, STATUS_FROM_WIRE, "status")
    lengths = list(head.length)
    crcs, offsets = list(head.crc32c), list(head.miscompare_offset)
    check_arrays(sequence, status, lengths, crcs, offsets)
    if lengths and max(lengths) > IO_BYTES_MAX:
        raise WireError(WireFault.TOO_LARGE, f"an answer of {max(lengths)} bytes")
    payloads = slices_of(payload, lengths, crcs if checksum else None)
    answers = [
        Answer(seq, how, (view,) if len(view) else (), offset)
        for seq, how, view, offset in zip(sequence, status, payloads, offsets, strict=True)
    ]
    return Answers(head.batch, answers, head.request_credit, head.detail, len(payload))


def finish_io(io: StoreIo, answer: Answer) -> None:
    """Put an answer into the I/O it is of; ``io.done`` is left to the caller."""
    if answer.status is StoreStatus.OK and io.kind is IoKind.READ:
        _copy_into(io.buffers, answer.payload, io.length)
    elif answer.status is StoreStatus.OK and io.kind is IoKind.BLOCK_STATUS:
        io.extents = _unpack_extents(answer.payload, io)
    elif answer.payload:
        raise WireError(WireFault.MALFORMED, f"payload in an answer to {io.kind.value}")
    io.status = answer.status
    io.miscompare_offset = answer.miscompare_offset


# --- a worker's side -----------------------------------------------------------------------------


def unpack_batch(data: bytes, *, checksum: bool = True) -> Batch:
    """What a node has sent; raises :class:`WireError`.  Payload is slices of ``data``."""
    head, payload = parse(data, worker_pb2.IoBatch, _BATCH_PAYLOAD)
    if not 1 <= len(head.node) <= NODE_CHARS_MAX or not head.node.isprintable():
        raise WireError(WireFault.MALFORMED, "node id")
    sequence = list(head.sequence)
    kinds = mapped(head.kind, KIND_FROM_WIRE, "kind")
    lengths = list(head.length)
    columns = [head.volume, head.offset, head.flags, head.deadline_ms, head.crc32c]
    volume, offset, flags, deadline_ms, crcs = (list(column) for column in columns)
    check_arrays(sequence, kinds, lengths, volume, offset, flags, deadline_ms, crcs)
    if len(head.cancel) > MESSAGE_IOS_MAX:
        raise WireError(WireFault.TOO_LARGE, f"{len(head.cancel)} cancellations")
    if not all(sequence) or len(set(sequence)) != len(sequence):
        raise WireError(WireFault.MALFORMED, "a sequence number is 0, or there twice")
    if any(flag & ~FLAG_FUA for flag in flags):
        raise WireError(WireFault.MALFORMED, "unknown flags")
    for kind, length in zip(kinds, lengths, strict=True):
        if length > length_max(kind):
            raise WireError(WireFault.TOO_LARGE, f"{kind.value} of {length} bytes")
        if not length and kind is not IoKind.FLUSH:
            raise WireError(WireFault.MALFORMED, f"{kind.value} of no bytes")
    carried = list(map(request_bytes, kinds, lengths))
    payloads = slices_of(payload, carried, crcs if checksum else None)
    fua = [bool(flag & FLAG_FUA) for flag in flags]
    ios = list(map(WireIo, sequence, kinds, volume, offset, lengths, fua, deadline_ms, payloads))
    cancel = list(head.cancel)
    return Batch(head.node, head.epoch, head.batch, ios, cancel, head.answer_credit, len(payload))


def pack_answers(
    number: int,
    answers: Sequence[Answer],
    *,
    request_credit: int = 0,
    detail: str = "",
    checksum: bool = True,
) -> bytes:
    """A message of ``answers``."""
    assert len(answers) <= MESSAGE_IOS_MAX, "rule 3"
    views = [view for answer in answers for view in answer.payload]
    head = worker_pb2.IoAnswers(
        batch=number,
        sequence=[answer.sequence for answer in answers],
        status=[STATUS_TO_WIRE[answer.status] for answer in answers],
        length=[sum(map(len, answer.payload)) for answer in answers],
        crc32c=[
            checksum_of(answer.payload) if checksum and answer.payload else 0 for answer in answers
        ],
        miscompare_offset=[answer.miscompare_offset for answer in answers],
        request_credit=request_credit,
        detail=detail,
    )
    return join_payload(head, _ANSWERS_PAYLOAD, views)


def pack_extents(extents: Sequence[StatusExtent]) -> bytes:
    """The payload of an answer to BLOCK_STATUS."""
    return b"".join(_EXTENT.pack(extent.length, extent.mapped) for extent in extents[:EXTENTS_MAX])


def _copy_into(buffers: Sequence[memoryview], payload: Sequence[memoryview], length: int) -> None:
    data = payload[0] if payload else memoryview(b"")
    if len(data) != length:
        raise WireError(WireFault.MALFORMED, f"{len(data)} bytes read, not {length}")
    at = 0
    for view in buffers:
        view[:] = data[at : at + len(view)]
        at += len(view)


def _unpack_extents(payload: Sequence[memoryview], io: StoreIo) -> list[StatusExtent]:
    data = payload[0] if payload else memoryview(b"")
    if len(data) % EXTENT_BYTES or len(data) > EXTENT_BYTES * EXTENTS_MAX:
        raise WireError(WireFault.MALFORMED, f"block status of {len(data)} bytes")
    extents: list[StatusExtent] = []
    at = io.offset
    for length, is_mapped in _EXTENT.iter_unpack(data):
        if not length or at + length > io.offset + io.length:
            raise WireError(WireFault.MALFORMED, "block status beyond what was asked for")
        extents.append(StatusExtent(at, length, bool(is_mapped)))
        at += length
    return extents[: io.extents_max]
