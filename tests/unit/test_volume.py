"""A volume over one store and over several: extents, order, errors."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence

import pytest

from target.block.volume import CHUNK_BYTES_MIN, EXTENTS_MAX, STATUS_CHUNKS_MAX, Volume
from tests.support.stores import FailingStore, HeldStore, OwnMemoryStore, RecordingStore
from tests.support.waits import Waiting, result_of
from workers.memory_store import MemoryStore
from workers.store import IoKind, StatusExtent, StoreError, StoreStatus, VolumeStore

CHUNK = CHUNK_BYTES_MIN
SIZE = 12 * CHUNK


def striped(stores: Sequence[VolumeStore], **options: bool) -> Volume:
    """Chunk ``n`` in store ``n % len(stores)``."""
    return Volume(
        "v",
        uuid.UUID(int=1),
        stores,
        chunk_bytes=CHUNK,
        place=lambda chunk: chunk % len(stores),
        **options,
    )


def memories(count: int = 3) -> list[MemoryStore]:
    return [MemoryStore(SIZE) for _ in range(count)]


def read(volume: Volume, offset: int, nbytes: int) -> bytes:
    data = bytearray(nbytes)
    result_of(volume.read(offset, [memoryview(data)], nbytes))
    return bytes(data)


def write(volume: Volume, offset: int, data: bytes) -> None:
    result_of(volume.write(offset, [memoryview(data)], len(data)))


def test_the_size_is_that_of_the_smallest_store_in_whole_blocks() -> None:
    volume = Volume("v", uuid.UUID(int=1), [MemoryStore(9000), MemoryStore(10000)])
    assert volume.size == 8704


def test_one_read_only_store_makes_the_volume_read_only() -> None:
    assert striped([MemoryStore(SIZE), MemoryStore(SIZE, read_only=True)]).read_only
    assert not striped(memories()).read_only


@pytest.mark.parametrize("count", [1, 2, 3])
def test_bytes_are_read_as_written_whatever_the_stores(count: int) -> None:
    rng = random.Random(count)
    volume = striped(memories(count))
    model = bytearray(SIZE)
    for _ in range(100):
        offset = rng.randrange(SIZE)
        data = rng.randbytes(min(SIZE - offset, rng.choice([1, 512, CHUNK, 3 * CHUNK])))
        write(volume, offset, data)
        model[offset : offset + len(data)] = data
        at = rng.randrange(SIZE - 1)
        nbytes = rng.randint(1, min(4 * CHUNK, SIZE - at))
        assert read(volume, at, nbytes) == model[at : at + nbytes]
    assert read(volume, 0, SIZE) == model


def test_each_chunk_lies_in_its_own_store() -> None:
    stores = memories()
    write(striped(stores), CHUNK - 4096, bytes([1]) * (CHUNK + 8192))
    assert [store.mapped_bytes for store in stores] == [4096, CHUNK, 4096]


def test_extents_of_one_io_run_at_the_same_time() -> None:
    held = [HeldStore(store) for store in memories()]
    volume = striped(held)
    waiting = Waiting(volume.write(0, [memoryview(bytes(3 * CHUNK))], 3 * CHUNK))
    assert [len(store.held) for store in held] == [1, 1, 1]
    for store in reversed(held):
        assert not waiting.over()
        store.release()
    assert waiting.outcome is None


@pytest.mark.parametrize("offset", [0, CHUNK // 2])
def test_data_are_found_where_the_store_has_them(offset: int) -> None:
    """Or in the scatter list, if they are of several stores."""
    volume = striped([OwnMemoryStore(store) for store in memories()])
    data = random.Random(2).randbytes(CHUNK)
    write(volume, offset, data)
    given = [memoryview(bytearray(1000)), memoryview(bytearray(CHUNK - 1000))]
    found = result_of(volume.fetch(offset, given, CHUNK))
    assert b"".join(found) == data
    assert (found is given) == (offset != 0)
    assert read(volume, offset, CHUNK) == data


def test_scatter_lists_are_handed_on_in_pieces() -> None:
    stores = memories()
    volume = striped(stores)
    data = random.Random(1).randbytes(2 * CHUNK)
    views = [
        memoryview(data)[:1000],
        memoryview(data)[1000 : CHUNK + 5],
        memoryview(data)[CHUNK + 5 :],
    ]
    result_of(volume.write(CHUNK // 2, views, len(data)))
    assert read(volume, CHUNK // 2, len(data)) == data


def test_on_the_spot_where_one_store_has_it() -> None:
    one, three = striped(memories(1)), striped(memories())
    buffer = [memoryview(bytearray(512))]
    assert one.write_now(0, buffer, 512)
    assert one.read_now(0, buffer, 512)
    assert not three.write_now(0, buffer, 512)
    assert three.read_now(0, buffer, 512)
    edge = three.chunk_bytes - 256
    assert not three.read_now(edge, buffer, 512), "it is in two of them"


def test_nothing_on_the_spot_overtakes_what_waits() -> None:
    held = HeldStore(MemoryStore(SIZE))
    volume = striped([held])
    inner, volume._at_hand = volume._at_hand, held.inner  # at hand, but for the order
    buffer = [memoryview(bytearray(512))]
    waiting = Waiting(volume.write(0, [memoryview(bytes([9]) * 512)], 512))
    assert not volume.read_now(0, buffer, 512)
    assert not volume.write_now(0, buffer, 512)
    assert volume.read_now(512, buffer, 512)
    held.release()
    assert waiting.over()
    assert volume.read_now(0, buffer, 512)
    assert bytes(buffer[0]) == bytes([9]) * 512
    volume._at_hand = inner


def test_overlapping_writes_end_in_the_order_they_came() -> None:
    held = HeldStore(MemoryStore(SIZE))
    volume = striped([held])
    first = Waiting(volume.write(0, [memoryview(b"a" * 512)], 512))
    second = Waiting(volume.write(256, [memoryview(b"b" * 512)], 512))
    reading = bytearray(768)
    third = Waiting(volume.read(0, [memoryview(reading)], 768))
    assert len(held.held) == 1
    held.release()
    assert (first.over(), second.over()) == (True, False)
    held.release_all()
    assert third.over()
    assert bytes(reading) == b"a" * 256 + b"b" * 512


def test_past_the_end_is_out_of_range() -> None:
    volume = striped(memories())
    for wait in (
        volume.read(SIZE - 1, [memoryview(bytearray(2))], 2),
        volume.write(SIZE, [memoryview(b"x")], 1),
        volume.zero(SIZE - 512, 1024, unmap=True),
        volume.block_status(SIZE, 1),
    ):
        with pytest.raises(StoreError) as caught:
            result_of(wait)
        assert caught.value.status is StoreStatus.OUT_OF_RANGE


def test_no_bytes_are_done_at_once() -> None:
    volume = striped([HeldStore(MemoryStore(SIZE))])
    result_of(volume.read(SIZE, [], 0))
    result_of(volume.zero(5, 0, unmap=False))


@pytest.mark.parametrize("unmap", [False, True])
def test_zeroing_over_several_stores(unmap: bool) -> None:
    stores = memories()
    volume = striped(stores)
    write(volume, 0, b"z" * SIZE)
    result_of(volume.zero(4096, SIZE - 8192, unmap=unmap))
    assert read(volume, 0, SIZE) == b"z" * 4096 + bytes(SIZE - 8192) + b"z" * 4096
    assert sum(store.mapped_bytes for store in stores) == (8192 if unmap else SIZE)


def test_a_flush_reaches_every_store_and_every_error_counts() -> None:
    recording = [RecordingStore(store) for store in memories()]
    result_of(striped(recording).flush())
    assert [store.log[0][0] for store in recording] == [IoKind.FLUSH] * 3
    lost = FailingStore(MemoryStore(SIZE), {IoKind.FLUSH: StoreStatus.SYNC_LOST})
    with pytest.raises(StoreError) as caught:
        result_of(striped([*memories(2), lost]).flush())
    assert caught.value.status is StoreStatus.SYNC_LOST


def test_without_a_write_cache_every_change_is_durable() -> None:
    recording = RecordingStore(MemoryStore(SIZE))
    volume = striped([recording], write_cache=False)
    buffer = [memoryview(bytes(512))]
    assert not volume.write_now(0, buffer, 512)
    result_of(volume.write(0, buffer, 512))
    result_of(volume.zero(0, 512, unmap=True))
    result_of(volume.compare_and_write(0, buffer, buffer, 512))
    assert [fua for _, _, _, fua in recording.log] == [True, True, True]


def test_with_a_write_cache_only_fua_is() -> None:
    recording = RecordingStore(MemoryStore(SIZE))
    volume = striped([recording])
    buffer = [memoryview(bytes(512))]
    result_of(volume.write(0, buffer, 512))
    result_of(volume.write(0, buffer, 512, True))
    assert [fua for _, _, _, fua in recording.log] == [False, True]


def test_an_error_of_one_extent_is_the_error_of_the_io() -> None:
    bad = FailingStore(MemoryStore(SIZE), {IoKind.WRITE: StoreStatus.NO_SPACE})
    volume = striped([MemoryStore(SIZE), bad, MemoryStore(SIZE)])
    with pytest.raises(StoreError) as caught:
        result_of(volume.write(0, [memoryview(bytes(3 * CHUNK))], 3 * CHUNK))
    assert caught.value.status is StoreStatus.NO_SPACE
    assert volume._ranges.idle


# --- COMPARE AND WRITE ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_compare_and_write_over_a_chunk_boundary(count: int) -> None:
    volume = striped(memories(count))
    old, new = b"o" * 4096, b"n" * 4096
    at = CHUNK - 1024
    write(volume, at, old)
    result_of(volume.compare_and_write(at, [memoryview(old)], [memoryview(new)], 4096))
    assert read(volume, at, 4096) == new


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("wrong", [0, 1023, 1024, 4095])
def test_a_miscompare_changes_nothing_in_any_store(count: int, wrong: int) -> None:
    volume = striped(memories(count))
    old, new = b"o" * 4096, b"n" * 4096
    at = CHUNK - 1024
    write(volume, at, old)
    expected = bytearray(old)
    expected[wrong] = 0
    expected[-1] = 0
    with pytest.raises(StoreError) as caught:
        result_of(volume.compare_and_write(at, [memoryview(expected)], [memoryview(new)], 4096))
    assert caught.value.status is StoreStatus.MISCOMPARE
    assert caught.value.miscompare_offset == wrong
    assert read(volume, at, 4096) == old


def test_nothing_comes_between_comparison_and_write() -> None:
    held = [HeldStore(store) for store in memories(2)]
    volume = striped(held)
    at = CHUNK - 512
    zeros, ones, twos = bytes(1024), b"1" * 1024, b"2" * 1024
    first = Waiting(volume.compare_and_write(at, [memoryview(zeros)], [memoryview(ones)], 1024))
    second = Waiting(volume.compare_and_write(at, [memoryview(zeros)], [memoryview(twos)], 1024))
    assert [len(store.held) for store in held] == [1, 1]
    held[1].release()
    held[0].release()  # all have compared: now both write
    assert [store.held[0].kind for store in held] == [IoKind.WRITE, IoKind.WRITE]
    assert not second.over()
    for _ in range(3):
        for store in held:
            store.release_all()
    assert first.outcome is None
    assert second.outcome.status is StoreStatus.MISCOMPARE


# --- BLOCK STATUS ---------------------------------------------------------------------------------


def test_runs_of_several_stores_are_joined() -> None:
    volume = striped(memories())
    write(volume, 0, b"x" * 2 * CHUNK)
    assert result_of(volume.block_status(0, SIZE)) == [
        StatusExtent(0, 2 * CHUNK, True),
        StatusExtent(2 * CHUNK, SIZE - 2 * CHUNK, False),
    ]


def test_what_a_store_left_out_is_not_skipped() -> None:
    """A store tells at most ``EXTENTS_MAX`` runs: what comes after its last is not known."""
    size = 8 << 20
    volume = Volume(
        "v",
        uuid.UUID(int=1),
        [MemoryStore(size), MemoryStore(size)],
        chunk_bytes=4 << 20,
        place=lambda chunk: chunk % 2,
    )
    for page in range(0, 2 * EXTENTS_MAX, 2):
        write(volume, page * 4096, b"x")
    extents = result_of(volume.block_status(0, size))
    assert len(extents) == EXTENTS_MAX
    at = 0
    for extent in extents:
        assert extent.offset == at
        at += extent.length


@pytest.mark.parametrize("count", [1, 2])
def test_the_status_of_a_huge_volume_costs_no_more_than_that_of_a_small_one(count: int) -> None:
    size = 1 << 50
    volume = striped([RecordingStore(MemoryStore(size)) for _ in range(count)])
    (extent,) = result_of(volume.block_status(0, size))
    assert (extent.offset, extent.mapped) == (0, False)
    assert extent.length == (size if count == 1 else STATUS_CHUNKS_MAX * CHUNK)


def test_a_status_waits_for_no_write() -> None:
    held = HeldStore(MemoryStore(SIZE))
    volume = striped([held])
    writing = Waiting(volume.write(0, [memoryview(bytes(512))], 512))
    status = Waiting(volume.block_status(0, SIZE))
    held.release(1)
    assert status.over()
    held.release_all()
    assert writing.over()


def test_closing_closes_the_stores() -> None:
    stores = memories()
    striped(stores).close()
    assert all(store.closed for store in stores)


def test_closing_with_io_in_flight_is_a_bug_of_ours() -> None:
    held = HeldStore(MemoryStore(SIZE))
    volume = striped([held])
    waiting = Waiting(volume.zero(0, 512, unmap=False))
    with pytest.raises(AssertionError, match="in flight"):
        volume.close()
    held.release_all()
    assert waiting.over()
