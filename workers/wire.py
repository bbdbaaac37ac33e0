"""The messages of Data.Stream: records and one run of payload bytes, to and from I/Os.

Both ends of a stream use it: a target node packs :class:`Outgoing` and unpacks :class:`Answers`,
a worker unpacks a :class:`Batch` and packs :class:`Answer`.  The stream is opened with
``STREAM_METHOD`` and without serializers, so that gRPC hands bytes in and out; they are the
protobuf messages of worker.proto all the same.

Rules:

1. Payload is not copied here on its way out: a message is made as the pieces that it consists of,
   good until their I/Os end.  On its way in, what was received stays where it is, and its I/Os have
   slices of it.  The protobuf runtime would copy it twice each way; it sees that field of small
   messages only.
2. A message is checked whole before any of it is used: bounds, records, kinds, the sum of the
   payload, CRC32C.  What is wrong with it is a :class:`WireError`; a peer cannot cause another
   exception.
3. Ours is asserted: what is handed to ``pack_…`` keeps the bounds of workers/limits.py.

``target/block`` may import this module, as it may ``workers.store`` and ``workers.limits``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from lunmesh.worker.v2 import worker_pb2

from workers.limits import (
    EXTENT_BYTES,
    EXTENTS_MAX,
    IO_BYTES_MAX,
    MESSAGE_IOS_MAX,
    NODE_CHARS_MAX,
    RANGE_BYTES_MAX,
)
from workers.store import IoKind, StatusExtent, StoreIo, StoreStatus, scatter
from workers.wire_fields import NO_PAYLOAD as NO_PAYLOAD
from workers.wire_fields import Parts as Parts
from workers.wire_fields import WireError as WireError
from workers.wire_fields import WireFault as WireFault
from workers.wire_fields import (
    check_all_used,
    check_records,
    checksum_of,
    cut_payload,
    parse,
    with_payload,
)

STREAM_METHOD: Final = "/lunmesh.worker.v2.Data/Stream"
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
_IO: Final = struct.Struct("<QQIIIIIBB")  # worker.proto, IoBatch.ios
_ANSWER: Final = struct.Struct("<QIIIB")  # IoAnswers.answers
_EXTENT: Final = struct.Struct("<QB")


# One for each I/O, so in C: these cost a third of what named tuples do.
class Outgoing(msgspec.Struct, frozen=True):
    """An I/O as a node sends it."""

    sequence: int  # unique within (node, epoch), the same when it is sent again; not 0
    volume: int  # handle from Control.OpenVolume
    deadline_ms: int  # from receipt; 0: none
    io: StoreIo
    lent: int | None = None  # where its payload lies in the memory that was lent; None: to be sent


class WireIo(msgspec.Struct, frozen=True, gc=False):
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


class Answer(msgspec.Struct, frozen=True, gc=False):
    """How an I/O ended.  ``payload``: data of a READ, runs of a BLOCK_STATUS."""

    sequence: int
    status: StoreStatus
    payload: Sequence[memoryview] = ()
    miscompare_offset: int = 0  # bytes from the start of the compared range


class Offers(NamedTuple):
    """What a worker's first message offers to a node on its machine: tokens (workers/grants.py)."""

    lent_token: bytes = b""  # for memory (worker.proto, rule 11); empty: there is none
    lent_bytes: int = 0  # its size
    socket_token: bytes = b""  # for a socket (rule 12); empty: there is none


NO_OFFERS: Final = Offers()


class Answers(NamedTuple):
    """A message from a worker."""

    number: int  # of the message on its stream, from 1
    answers: list[Answer]
    request_credit: int  # bytes
    detail: str  # for people, of the first I/O that failed
    payload_bytes: int
    offers: Offers = NO_OFFERS


# Bytes of the range of one I/O of each kind; longer ones are cut by the node.
LENGTH_MAX: Final = dict.fromkeys(IoKind, RANGE_BYTES_MAX) | dict.fromkeys(
    (IoKind.READ, IoKind.WRITE, IoKind.COMPARE_AND_WRITE), IO_BYTES_MAX
)


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


# --- a node's side -------------------------------------------------------------------------------


def pack_batch(
    node: str,
    epoch: int,
    message: int,
    ios: Sequence[Outgoing],
    *,
    cancel: Sequence[int] = (),
    answer_credit: int = 0,
    checksum: bool = True,
) -> Parts:
    """A message of ``ios``.  A FLUSH goes without its range: it is of the whole volume."""
    assert max(len(ios), len(cancel)) <= MESSAGE_IOS_MAX, "rule 3"
    records: list[bytes] = []
    views: list[memoryview] = []
    for outgoing in ios:
        io, lent = outgoing.io, outgoing.lent
        kind, offset, length = io.kind, io.offset, io.length
        if kind is IoKind.FLUSH:
            offset = length = 0
        assert length <= LENGTH_MAX[kind], "rule 3"
        crc = 0
        if request_bytes(kind, length):
            carried = (*io.compare, *io.buffers)
            if checksum:
                crc = checksum_of(carried)
            if lent is None:
                views += carried
        place = 0 if lent is None else lent + 1
        number = KIND_TO_WIRE[kind]
        flags = FLAG_FUA if io.fua else 0
        records.append(
            _IO.pack(
                outgoing.sequence,
                offset,
                outgoing.volume,
                length,
                outgoing.deadline_ms,
                crc,
                place,
                number,
                flags,
            )
        )
    head = worker_pb2.IoBatch(
        node=node,
        epoch=epoch,
        batch=message,
        ios=b"".join(records),
        cancel=cancel,
        answer_credit=answer_credit,
    )
    return with_payload(head, _BATCH_PAYLOAD, views)


def unpack_answers(data: bytes, *, checksum: bool = True) -> Answers:
    """What a worker has sent; raises :class:`WireError`.  Payload is slices of ``data``."""
    head, payload = parse(data, worker_pb2.IoAnswers, _ANSWERS_PAYLOAD)
    check_records(head.answers, _ANSWER.size)
    answers: list[Answer] = []
    at = 0
    for sequence, length, crc, miscompare, number in _ANSWER.iter_unpack(head.answers):
        status = STATUS_FROM_WIRE.get(number)
        if status is None:
            raise WireError(WireFault.MALFORMED, f"unknown status {number}")
        if length > IO_BYTES_MAX:
            raise WireError(WireFault.TOO_LARGE, f"an answer of {length} bytes")
        views: tuple[memoryview, ...] = ()
        if length:
            views = (cut_payload(payload, at, length, crc if checksum else None),)
            at += length
        answers.append(Answer(sequence, status, views, miscompare))
    check_all_used(payload, at)
    return Answers(
        head.batch,
        answers,
        head.request_credit,
        head.detail,
        len(payload),
        Offers(head.lent_token, head.lent_bytes, head.socket_token),
    )


def finish_io(io: StoreIo, answer: Answer) -> None:
    """Put an answer into the I/O it is of; ``io.done`` is left to the caller."""
    if answer.status is StoreStatus.OK and io.kind is IoKind.READ:
        _put_data(io, answer.payload)
    elif answer.status is StoreStatus.OK and io.kind is IoKind.BLOCK_STATUS:
        io.extents = _unpack_extents(answer.payload, io)
    elif answer.payload:
        raise WireError(WireFault.MALFORMED, f"payload in an answer to {io.kind.value}")
    io.status = answer.status
    io.miscompare_offset = answer.miscompare_offset


# --- a worker's side -----------------------------------------------------------------------------


def unpack_batch(data: bytes, *, checksum: bool = True, memory: memoryview = NO_PAYLOAD) -> Batch:
    """What a node has sent; raises :class:`WireError`.

    Payload is slices of ``data``, or of the ``memory`` that was lent to it.
    """
    head, payload = parse(data, worker_pb2.IoBatch, _BATCH_PAYLOAD)
    if not 1 <= len(head.node) <= NODE_CHARS_MAX or not head.node.isprintable():
        raise WireError(WireFault.MALFORMED, "node id")
    if len(head.cancel) > MESSAGE_IOS_MAX:
        raise WireError(WireFault.TOO_LARGE, f"{len(head.cancel)} cancellations")
    check_records(head.ios, _IO.size)
    ios: list[WireIo] = []
    at = 0
    for record in _IO.iter_unpack(head.ios):
        sequence, offset, volume, length, deadline_ms, crc, lent, number, flags = record
        kind = KIND_FROM_WIRE.get(number)
        if kind is None or flags > FLAG_FUA:
            raise WireError(WireFault.MALFORMED, f"unknown kind {number} or flags {flags:#x}")
        if length > LENGTH_MAX[kind]:
            raise WireError(WireFault.TOO_LARGE, f"{kind.value} of {length} bytes")
        if not length and kind is not IoKind.FLUSH:
            raise WireError(WireFault.MALFORMED, f"{kind.value} of no bytes")
        view = NO_PAYLOAD
        if lent:
            view = _lent(memory, lent - 1, length, kind, crc if checksum else None)
        elif carried := request_bytes(kind, length):
            view = cut_payload(payload, at, carried, crc if checksum else None)
            at += carried
        fua = flags == FLAG_FUA
        ios.append(WireIo(sequence, kind, volume, offset, length, fua, deadline_ms, view))
    check_all_used(payload, at)
    sequences = {io.sequence for io in ios}
    if len(sequences) != len(ios) or 0 in sequences:
        raise WireError(WireFault.MALFORMED, "a sequence number is 0, or there twice")
    cancel = list(head.cancel)
    return Batch(head.node, head.epoch, head.batch, ios, cancel, head.answer_credit, len(payload))


def _lent(memory: memoryview, at: int, nbytes: int, kind: IoKind, crc: int | None) -> memoryview:
    """The payload of a WRITE in the memory that was lent."""
    if kind is not IoKind.WRITE or at + nbytes > len(memory):
        raise WireError(WireFault.MALFORMED, f"no {kind.value} of {nbytes} bytes was lent at {at}")
    return cut_payload(memory, at, nbytes, crc)


def pack_answers(
    number: int,
    answers: Sequence[Answer],
    *,
    request_credit: int = 0,
    detail: str = "",
    offers: Offers = NO_OFFERS,
    checksum: bool = True,
) -> Parts:
    """A message of ``answers``."""
    assert len(answers) <= MESSAGE_IOS_MAX, "rule 3"
    views = [view for answer in answers for view in answer.payload]
    records = [
        _ANSWER.pack(
            answer.sequence,
            sum(map(len, answer.payload)),
            checksum_of(answer.payload) if checksum and answer.payload else 0,
            answer.miscompare_offset,
            STATUS_TO_WIRE[answer.status],
        )
        for answer in answers
    ]
    head = worker_pb2.IoAnswers(
        batch=number,
        answers=b"".join(records),
        request_credit=request_credit,
        detail=detail,
        lent_token=offers.lent_token,
        lent_bytes=offers.lent_bytes,
        socket_token=offers.socket_token,
    )
    return with_payload(head, _ANSWERS_PAYLOAD, views)


def pack_extents(extents: Sequence[StatusExtent]) -> bytes:
    """The payload of an answer to BLOCK_STATUS."""
    return b"".join(_EXTENT.pack(extent.length, extent.mapped) for extent in extents[:EXTENTS_MAX])


def _put_data(io: StoreIo, payload: Sequence[memoryview]) -> None:
    data = payload[0] if payload else NO_PAYLOAD
    if len(data) != io.length:
        raise WireError(WireFault.MALFORMED, f"{len(data)} bytes read, not {io.length}")
    message = data.obj  # which a view of it keeps in memory
    if io.takes_views and isinstance(message, bytes) and 2 * io.length >= len(message):
        io.buffers = payload
        return
    scatter(io.buffers, data)


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
