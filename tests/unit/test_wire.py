"""The codec of Data.Stream: what goes in comes out, and nothing else gets through."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from typing import Any

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from lunmesh.worker.v2 import worker_pb2
from msgspec.structs import replace

from workers import wire
from workers.limits import IO_BYTES_MAX, MESSAGE_IOS_MAX, RANGE_BYTES_MAX
from workers.store import IoKind, StatusExtent, StoreIo, StoreStatus
from workers.wire import Answer, Outgoing, WireError, WireFault
from workers.wire_fields import SMALL_BYTES


def nothing(io: StoreIo) -> None:
    raise AssertionError("never submitted")


def packed(node: str, epoch: int, number: int, ios: list[Outgoing], **more: Any) -> bytes:
    return b"".join(wire.pack_batch(node, epoch, number, ios, **more))


def cut(data: bytes, pieces: int) -> list[memoryview]:
    """A scatter list of ``data``."""
    step = max(1, -(-len(data) // pieces))
    return [memoryview(data)[at : at + step] for at in range(0, len(data), step)]


@st.composite
def outgoing(draw: st.DrawFn, sequence: int = 1) -> Outgoing:
    kind = draw(st.sampled_from(IoKind))
    carries = kind in (IoKind.WRITE, IoKind.COMPARE_AND_WRITE)
    length = draw(st.integers(1, 2000 if carries else wire.LENGTH_MAX[kind]))
    offset = draw(st.integers(0, 1 << 60))
    io = StoreIo(kind, offset, length, nothing, fua=draw(st.booleans()))
    if carries:
        io.buffers = cut(draw(st.binary(min_size=length, max_size=length)), draw(st.integers(1, 5)))
    if kind is IoKind.COMPARE_AND_WRITE:
        io.compare = cut(draw(st.binary(min_size=length, max_size=length)), draw(st.integers(1, 5)))
    handle = draw(st.integers(0, (1 << 32) - 1))
    return Outgoing(sequence, handle, draw(st.integers(0, (1 << 32) - 1)), io)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 9), st.booleans())
def test_a_batch_comes_out_as_it_went_in(data: st.DataObject, count: int, checksum: bool) -> None:
    outs = [data.draw(outgoing(number + 1)) for number in range(count)]
    raw = packed("node-1", 7, 3, outs, cancel=[5, 6], answer_credit=99, checksum=checksum)
    batch = wire.unpack_batch(raw, checksum=checksum)
    assert (batch.node, batch.epoch, batch.number) == ("node-1", 7, 3)
    assert (batch.cancel, batch.answer_credit) == ([5, 6], 99)
    for out, got in zip(outs, batch.ios, strict=True):
        io = out.io
        assert (got.sequence, got.kind, got.volume) == (out.sequence, io.kind, out.volume)
        assert (got.fua, got.deadline_ms) == (io.fua, out.deadline_ms)
        expected = (0, 0) if io.kind is IoKind.FLUSH else (io.offset, io.length)
        assert (got.offset, got.length) == expected
        assert bytes(got.payload) == b"".join([*io.compare, *io.buffers])
    assert batch.payload_bytes == sum(len(got.payload) for got in batch.ios)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(StoreStatus), st.binary(max_size=300), st.integers(0, 1 << 20)),
        max_size=9,
    ),
    st.booleans(),
)
def test_answers_come_out_as_they_went_in(
    items: list[tuple[StoreStatus, bytes, int]], checksum: bool
) -> None:
    sent = [
        Answer(number + 1, status, cut(data, 3), miscompare)
        for number, (status, data, miscompare) in enumerate(items)
    ]
    raw = b"".join(
        wire.pack_answers(4, sent, request_credit=12, detail="a disk", checksum=checksum)
    )
    got = wire.unpack_answers(raw, checksum=checksum)
    assert (got.number, got.request_credit, got.detail) == (4, 12, "a disk")
    for expected, answer in zip(sent, got.answers, strict=True):
        assert b"".join(answer.payload) == b"".join(expected.payload)
        assert replace(answer, payload=()) == replace(expected, payload=())


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_a_wire_error_or_a_message(noise: bytes) -> None:
    for unpack in (wire.unpack_batch, wire.unpack_answers):
        with contextlib.suppress(WireError):
            unpack(noise)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_message_is_a_wire_error_or_a_message(data: st.DataObject) -> None:
    raw = bytearray(packed("n", 1, 1, [data.draw(outgoing()), data.draw(outgoing(2))]))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(WireError):
        wire.unpack_batch(bytes(raw))


def test_what_the_protobuf_runtime_writes_is_read_and_the_other_way_round() -> None:
    record = struct.pack("<QQIIIIIBB", 1, 512, 7, 3, 9, crc32c(b"abc"), 0, worker_pb2.KIND_WRITE, 1)
    message = worker_pb2.IoBatch(node="n", epoch=1, batch=1, ios=record, payload=b"abc", cancel=[9])
    batch = wire.unpack_batch(message.SerializeToString())
    payload = memoryview(b"abc")
    assert batch.ios == [wire.WireIo(1, IoKind.WRITE, 7, 512, 3, True, 9, payload)]
    assert batch.cancel == [9]
    io = StoreIo(IoKind.WRITE, 512, 3, nothing, [payload], fua=True)
    raw = packed("n", 1, 1, [Outgoing(1, 7, 9, io)], cancel=[9])
    assert worker_pb2.IoBatch.FromString(raw) == message


def test_a_large_payload_is_not_copied() -> None:
    data = bytes(SMALL_BYTES)
    io = StoreIo(IoKind.WRITE, 0, len(data), nothing, [memoryview(data)])
    raw = packed("n", 1, 1, [Outgoing(1, 1, 0, io)], cancel=[9])
    batch = wire.unpack_batch(raw)
    assert batch.ios[0].payload.obj is raw
    assert batch.cancel == [9]


def write_batch() -> worker_pb2.IoBatch:
    io = StoreIo(IoKind.WRITE, 0, 3, nothing, [memoryview(b"abc")])
    raw = packed("n", 1, 1, [Outgoing(1, 1, 0, io)])
    return worker_pb2.IoBatch.FromString(raw)


FIELDS = ("sequence", "offset", "volume", "length", "deadline", "crc32c", "lent", "kind", "flags")
RECORD = struct.Struct("<QQIIIIIBB")  # worker.proto


def _set(field: str, value: int) -> Callable[[worker_pb2.IoBatch], None]:
    def change(batch: worker_pb2.IoBatch) -> None:
        values = list(RECORD.unpack(batch.ios))
        values[FIELDS.index(field)] = value
        batch.ios = RECORD.pack(*values)

    return change


def _ios(records: Callable[[bytes], bytes]) -> Callable[[worker_pb2.IoBatch], None]:
    return lambda batch: setattr(batch, "ios", records(batch.ios))


def _cancel(*values: int) -> Callable[[worker_pb2.IoBatch], None]:
    return lambda batch: batch.cancel.extend(values)


def _payload(data: bytes) -> Callable[[worker_pb2.IoBatch], None]:
    return lambda batch: setattr(batch, "payload", data)


def _node(name: str) -> Callable[[worker_pb2.IoBatch], None]:
    return lambda batch: setattr(batch, "node", name)


def _twice(batch: worker_pb2.IoBatch) -> None:
    batch.ios *= 2
    batch.payload *= 2


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (_set("kind", 0), WireFault.MALFORMED),
        (_set("kind", 99), WireFault.MALFORMED),
        (_set("sequence", 0), WireFault.MALFORMED),
        (_set("flags", 2), WireFault.MALFORMED),
        (_set("length", 0), WireFault.MALFORMED),
        (_set("length", 2), WireFault.CORRUPT),
        (_set("length", 4), WireFault.MALFORMED),
        (_set("length", IO_BYTES_MAX + 1), WireFault.TOO_LARGE),
        (_set("crc32c", 1), WireFault.CORRUPT),
        (_set("lent", 1), WireFault.MALFORMED),
        (_ios(lambda records: records[:-1]), WireFault.MALFORMED),
        (_ios(lambda records: records + b"\0"), WireFault.MALFORMED),
        (_ios(lambda records: b""), WireFault.MALFORMED),
        (_ios(lambda records: records * (MESSAGE_IOS_MAX + 1)), WireFault.TOO_LARGE),
        (_cancel(*range(MESSAGE_IOS_MAX + 1)), WireFault.TOO_LARGE),
        (_payload(b"abd"), WireFault.CORRUPT),
        (_payload(b""), WireFault.MALFORMED),
        (_payload(bytes((4 << 20) + 1)), WireFault.TOO_LARGE),
        (_payload(bytes(5 << 20)), WireFault.TOO_LARGE),
        (_node(""), WireFault.MALFORMED),
        (_node("n" * 129), WireFault.MALFORMED),
        (_node("a\nb"), WireFault.MALFORMED),
        (_twice, WireFault.MALFORMED),
    ],
)
def test_a_wrong_batch_is_refused(
    change: Callable[[worker_pb2.IoBatch], None], fault: WireFault
) -> None:
    batch = write_batch()
    wire.unpack_batch(batch.SerializeToString())
    change(batch)
    with pytest.raises(WireError) as caught:
        wire.unpack_batch(batch.SerializeToString())
    assert caught.value.fault is fault


def test_payload_that_is_nobodys_is_refused() -> None:
    batch = write_batch()
    _set("length", 2)(batch)
    with pytest.raises(WireError, match="1 bytes of payload"):
        wire.unpack_batch(batch.SerializeToString(), checksum=False)


def test_many_small_fields_do_not_cost_much() -> None:
    with pytest.raises(WireError, match="fields"):
        wire.unpack_batch(b"\x10\x00" * (1 << 20))


def test_a_batch_that_is_cut_off_has_no_io() -> None:
    raw = packed("node", 1, 1, [Outgoing(1, 1, 0, StoreIo(IoKind.READ, 0, 9, nothing))])
    for end in range(len(raw)):
        with contextlib.suppress(WireError):
            assert wire.unpack_batch(raw[:end]).ios == []


def test_bounds_of_a_range_without_data() -> None:
    fits = StoreIo(IoKind.UNMAP, 0, RANGE_BYTES_MAX, nothing)
    raw = packed("n", 1, 1, [Outgoing(1, 1, 0, fits)])
    assert wire.unpack_batch(raw).ios[0].length == RANGE_BYTES_MAX
    batch = worker_pb2.IoBatch.FromString(raw)
    _set("length", RANGE_BYTES_MAX + 1)(batch)
    with pytest.raises(WireError, match="too large"):
        wire.unpack_batch(batch.SerializeToString())


def test_a_read_is_finished_into_its_scatter_list() -> None:
    first, second = bytearray(3), bytearray(2)
    io = StoreIo(IoKind.READ, 0, 5, nothing, [memoryview(first), memoryview(second)])
    wire.finish_io(io, Answer(1, StoreStatus.OK, (memoryview(b"hello"),)))
    assert (bytes(first), bytes(second), io.status) == (b"hel", b"lo", StoreStatus.OK)


@pytest.mark.parametrize("data", [b"", b"hell", b"hello!"])
def test_a_read_of_another_length_is_refused(data: bytes) -> None:
    io = StoreIo(IoKind.READ, 0, 5, nothing, [memoryview(bytearray(5))])
    with pytest.raises(WireError):
        wire.finish_io(io, Answer(1, StoreStatus.OK, (memoryview(data),)))


@pytest.mark.parametrize(("others", "copied"), [(0, False), (5, False), (6, True)])
def test_a_read_that_takes_views_is_left_where_it_came_in(others: int, copied: bool) -> None:
    """Unless most of the message, which it would keep in memory, is of others."""
    given = memoryview(bytearray(5))
    message = b"hello" + bytes(others)
    io = StoreIo(IoKind.READ, 0, 5, nothing, [given], takes_views=True)
    wire.finish_io(io, Answer(1, StoreStatus.OK, (memoryview(message)[:5],)))
    assert b"".join(io.buffers) == b"hello"
    assert (io.buffers[0].obj is given.obj) == copied


def test_a_failed_read_leaves_the_buffers() -> None:
    buffer = bytearray(b"before")
    io = StoreIo(IoKind.READ, 0, 6, nothing, [memoryview(buffer)])
    wire.finish_io(io, Answer(1, StoreStatus.READ_FAILED))
    assert (io.status, bytes(buffer)) == (StoreStatus.READ_FAILED, b"before")


def test_block_status_comes_out_as_it_went_in() -> None:
    extents = [StatusExtent(4096, 512, True), StatusExtent(4608, 1024, False)]
    io = StoreIo(IoKind.BLOCK_STATUS, 4096, 4096, nothing)
    data = memoryview(wire.pack_extents(extents))
    wire.finish_io(io, Answer(1, StoreStatus.OK, (data,)))
    assert io.extents == extents


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        wire.pack_extents([StatusExtent(0, 0, True)]),
        wire.pack_extents([StatusExtent(0, 4097, True)]),
        wire.pack_extents([StatusExtent(0, (1 << 64) - 1, True)]),
    ],
)
def test_a_wrong_block_status_is_refused(data: bytes) -> None:
    io = StoreIo(IoKind.BLOCK_STATUS, 0, 4096, nothing)
    with pytest.raises(WireError):
        wire.finish_io(io, Answer(1, StoreStatus.OK, (memoryview(data),)))


def test_payload_for_an_io_that_has_none_is_refused() -> None:
    io = StoreIo(IoKind.WRITE, 0, 5, nothing)
    with pytest.raises(WireError):
        wire.finish_io(io, Answer(1, StoreStatus.OK, (memoryview(b"hello"),)))
