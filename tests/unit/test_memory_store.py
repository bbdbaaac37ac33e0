"""What is the memory store's own; ``test_store_contract.py`` has what every store promises."""

from __future__ import annotations

import pytest

from workers.memory_store import CHUNK_BYTES, PAGE_BYTES, MemoryStore
from workers.store import IoKind, StoreIo, StoreStatus

SIZE = 4 * CHUNK_BYTES


def submit(store: MemoryStore, kind: IoKind, offset: int, length: int) -> StoreIo:
    done: list[StoreIo] = []
    io = StoreIo(kind, offset, length, done.append, [memoryview(bytearray(length))])
    store.submit(io)
    assert done == [io], "the memory store answers at once"
    return io


def test_it_holds_what_is_written_and_no_more_than_its_size() -> None:
    store = MemoryStore(SIZE)
    assert store.mapped_bytes == 0
    store.write_now(PAGE_BYTES - 1, [memoryview(b"ab")], 2)
    assert store.mapped_bytes == 2 * PAGE_BYTES
    submit(store, IoKind.ZERO, 0, SIZE)
    assert store.mapped_bytes == SIZE
    submit(store, IoKind.UNMAP, 0, SIZE)
    assert store.mapped_bytes == 0


@pytest.mark.parametrize(("offset", "length"), [(SIZE, 1), (SIZE - 1, 2), (-1, 1)])
@pytest.mark.parametrize("kind", [IoKind.READ, IoKind.WRITE, IoKind.UNMAP])
def test_nothing_past_its_end(kind: IoKind, offset: int, length: int) -> None:
    store = MemoryStore(SIZE)
    assert submit(store, kind, offset, length).status is StoreStatus.OUT_OF_RANGE
    view = [memoryview(bytearray(length))]
    assert not store.read_now(offset, view, length)
    assert not store.write_now(offset, view, length)
    assert store.mapped_bytes == 0


def test_a_closed_store_has_nothing() -> None:
    store = MemoryStore(SIZE)
    store.close()
    assert submit(store, IoKind.READ, 0, 1).status is StoreStatus.UNAVAILABLE
    assert not store.read_now(0, [memoryview(bytearray(1))], 1)
