"""Data-out that is used where it was received: written from there, or copied before it is gone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from target.block.pool import SEGMENT_BYTES
from tests.support import cdb
from tests.support.clean import assert_idle
from tests.support.iscsi_pdu import Opcode, Pdu
from tests.support.stores import HeldStore, StoreWrapper
from tests.support.wire import Wire, wire
from tests.support.wire_initiator import WireInitiator, sense_triple
from workers.memory_store import MemoryStore
from workers.store import StoreStatus

BLOCKS = 128
SIZE = BLOCKS * 512
KEYS = {"InitialR2T": "Yes", "ImmediateData": "Yes", "FirstBurstLength": "16384"}


class NotedStore(StoreWrapper):
    """Notes of what pieces each write on the spot came in."""

    def __init__(self) -> None:
        super().__init__(MemoryStore(1 << 20))
        self.pieces: list[list[int]] = []

    def write_now(self, offset: int, buffers: Sequence[memoryview], nbytes: int) -> bool:
        self.pieces.append([len(b) for b in buffers])
        return super().write_now(offset, buffers, nbytes)


@pytest.fixture
def store() -> NotedStore:
    return NotedStore()


@pytest.fixture
def w(store: NotedStore) -> Iterator[Wire]:
    with wire(stores=[store]) as it:
        yield it
        assert_idle(it.target)


def ask(session: WireInitiator, lba: int, early: bytes = b"") -> tuple[Pdu, Pdu]:
    """A write of ``BLOCKS``, and the R2T for what did not come with it."""
    command = session.scsi(cdb.write10(lba, BLOCKS), edtl=SIZE, write=True, data=early)
    r2t = session.one(command)
    assert r2t.opcode == Opcode.R2T
    return command, r2t


def pattern(byte: int, nbytes: int = SIZE) -> bytes:
    return bytes([byte]) * nbytes


def medium(w: Wire, offset: int, nbytes: int) -> bytes:
    view = memoryview(bytearray(nbytes))
    assert w.volumes[0].read_now(offset, [view], nbytes)
    return bytes(view)


def test_what_was_asked_for_is_written_in_one_piece(w: Wire, store: NotedStore) -> None:
    session = w.login(KEYS)
    command, r2t = ask(session, 0)
    assert session.one(session.data_out(command, pattern(7), ttt=r2t.ttt)).status == 0
    assert store.pieces == [[SIZE]]
    assert medium(w, 0, SIZE) == pattern(7)


def test_what_came_with_the_command_is_written_before_the_rest_is_asked_for(
    w: Wire, store: NotedStore
) -> None:
    session = w.login(KEYS)
    early = pattern(1, 16384)
    command, r2t = ask(session, 0, early)
    assert store.pieces == [[16384]]
    rest = pattern(2, SIZE - 16384)
    answer = session.one(session.data_out(command, rest, ttt=r2t.ttt, offset=16384))
    assert answer.status == 0
    assert store.pieces == [[16384], [len(rest)]]
    assert medium(w, 0, SIZE) == early + rest


def test_early_data_that_end_within_a_block_are_written_with_the_rest(
    w: Wire, store: NotedStore
) -> None:
    session = w.login(KEYS)
    early = pattern(1, 1000)
    command, r2t = ask(session, 0, early)
    assert store.pieces == []
    rest = pattern(2, SIZE - 1000)
    assert session.one(session.data_out(command, rest, ttt=r2t.ttt, offset=1000)).status == 0
    assert store.pieces == [[1000, SIZE - 1000]]
    assert medium(w, 0, SIZE) == early + rest


def test_a_sequence_of_several_data_outs_is_gathered_in_segments(
    w: Wire, store: NotedStore
) -> None:
    session = w.login(KEYS)
    command, r2t = ask(session, 0)
    half = SIZE // 2
    first = session.data_out(command, pattern(3, half), ttt=r2t.ttt, final=False)
    last = session.data_out(command, pattern(4, half), ttt=r2t.ttt, offset=half, sn=1)
    assert session.one(first, last).status == 0
    assert store.pieces == [[SEGMENT_BYTES] * (SIZE // SEGMENT_BYTES)]
    assert medium(w, 0, SIZE) == pattern(3, half) + pattern(4, half)


@pytest.mark.parametrize("nbytes", [0, 1000, 16384])
def test_what_cannot_be_written_on_the_spot_outlives_the_receive_buffer(nbytes: int) -> None:
    with wire(stores=[held := HeldStore(MemoryStore(1 << 20))]) as w:
        session = w.login(KEYS)
        asked = [ask(session, n * BLOCKS, pattern(n + 1, nbytes)) for n in range(2)]
        data_outs = [
            session.data_out(command, pattern(n + 1, SIZE - nbytes), ttt=r2t.ttt, offset=nbytes)
            for n, (command, r2t) in enumerate(asked)
        ]
        assert not session.exchange(*data_outs)
        w.scratch[:] = bytes(len(w.scratch))
        held.release_all()
        assert [pdu.status for pdu in session.incoming()] == [0, 0]
        found = memoryview(bytearray(2 * SIZE))
        assert held.inner.read_now(0, [found], 2 * SIZE)
        assert bytes(found) == pattern(1) + pattern(2)


def test_a_wrong_sequence_is_not_taken(w: Wire, store: NotedStore) -> None:
    session = w.login(KEYS)
    command, r2t = ask(session, 0)
    answer = session.one(session.data_out(command, pattern(7), ttt=r2t.ttt, sn=1))
    assert sense_triple(answer) == (0xB, 0x47, 0x05)
    assert not store.pieces


def test_an_error_of_the_store_ends_the_command() -> None:
    with wire(stores=[held := HeldStore(MemoryStore(1 << 20))]) as w:
        session = w.login(KEYS)
        command, r2t = ask(session, 0)
        assert not session.exchange(session.data_out(command, pattern(7), ttt=r2t.ttt))
        held.fail(StoreStatus.WRITE_FAILED)
        (answer,) = session.incoming()
        assert sense_triple(answer)[0] == 0x3
        assert w.pool.used == 0
