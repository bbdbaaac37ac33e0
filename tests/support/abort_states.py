"""Commands in every state that they can be aborted in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.support import cdb
from tests.support.iscsi_pdu import Attribute, Opcode, Pdu
from tests.support.stores import HeldStore
from tests.support.wire import Wire, wire
from tests.support.wire_initiator import WireInitiator
from workers.memory_store import MemoryStore

KEYS = {
    "InitialR2T": "No",
    "ImmediateData": "Yes",
    "FirstBurstLength": "8192",
    "MaxBurstLength": "262144",
    "MaxOutstandingR2T": "2",
}


@dataclass
class Scene:
    """A target, its store, a session, and what stands in a command's way."""

    w: Wire
    store: HeldStore
    session: WireInitiator
    rest: bytes = b""
    """What of a PDU has not been sent yet."""
    blockers: list[Pdu] = field(default_factory=list)

    def take_all_buffers(self) -> None:
        """This session gets no more of the pool."""
        self.w.target.sessions[self.session.tsih].share.limit = 0

    def clear(self) -> None:
        """What stood in the way is gone, and all that was on its way arrives."""
        self.w.pool._set_limits()
        self.w.pool._serve()
        self.session.socket.taking = None
        if not self.session.is_closed():
            self.session.socket.feed(self.rest)
        self.store.release_all()


@contextlib.contextmanager
def scene() -> Iterator[Scene]:
    """A session for one of the states below, with a target that has to be clean at the end."""
    store = HeldStore(MemoryStore(8 << 20))
    with wire(stores=[store]) as w:
        yield Scene(w, store, w.login(KEYS))


def release(w: Wire) -> None:
    """Every held store carries out what it has been given."""
    for volume in w.volumes:
        for store in volume.stores:
            assert isinstance(store, HeldStore)
            store.release_all()


def _quiet(s: Scene, *pdus: Pdu) -> None:
    assert not s.session.exchange(*pdus)


def read_in_the_store(s: Scene) -> Pdu:
    command = s.session.scsi(cdb.read10(0, 8), edtl=4096, read=True)
    _quiet(s, command)
    assert len(s.store.held) == 1
    return command


def read_without_buffers(s: Scene) -> Pdu:
    s.take_all_buffers()
    command = s.session.scsi(cdb.read10(0, 8), edtl=4096, read=True)
    _quiet(s, command)
    assert s.w.pool.waiting == 1
    return command


def read_that_is_not_taken(s: Scene) -> Pdu:
    command = s.session.scsi(cdb.read16(0, 8192), edtl=4 << 20, read=True)
    s.session.socket.taking = 0
    _quiet(s, command)
    s.store.release()
    assert not s.store.held
    return command


def read_between_windows(s: Scene) -> Pdu:
    command = s.session.scsi(cdb.read16(0, 8192), edtl=4 << 20, read=True)
    s.session.exchange(command)
    s.store.release()
    assert s.session.incoming()
    assert len(s.store.held) == 1
    return command


def _blocked(s: Scene, command: Pdu) -> Pdu:
    blocker = s.session.scsi(cdb.read10(0, 1), edtl=512, read=True)
    ordered = s.session.scsi(cdb.read10(0, 1), edtl=512, read=True, attribute=Attribute.ORDERED)
    s.blockers = [blocker, ordered]
    command.cmd_sn = s.session.next_cmd_sn()
    _quiet(s, blocker, ordered, command)
    return command


def blocked_read(s: Scene) -> Pdu:
    command = s.session.scsi(cdb.read10(0, 1), edtl=512, read=True)
    s.session.cmd_sn -= 1
    return _blocked(s, command)


def blocked_write(s: Scene) -> Pdu:
    command = s.session.scsi(cdb.write10(0, 16), edtl=8192, write=True, data=bytes(8192))
    s.session.cmd_sn -= 1
    return _blocked(s, command)


def blocked_write_with_data_coming(s: Scene) -> Pdu:
    command = s.session.scsi(
        cdb.write10(0, 16), edtl=8192, write=True, final=False, data=bytes(512)
    )
    s.session.cmd_sn -= 1
    _blocked(s, command)
    _quiet(s, s.session.data_out(command, bytes(512), offset=512, final=False))
    return command


def write_with_unsolicited_data_coming(s: Scene) -> Pdu:
    command = s.session.scsi(
        cdb.write10(0, 16), edtl=8192, write=True, final=False, data=bytes(512)
    )
    _quiet(s, command, s.session.data_out(command, bytes(512), offset=512, final=False))
    return command


def write_without_buffers(s: Scene) -> Pdu:
    s.take_all_buffers()
    command = s.session.scsi(cdb.write10(0, 64), edtl=32768, write=True)
    _quiet(s, command)
    assert s.w.pool.waiting == 1
    return command


def _solicited(s: Scene, blocks: int = 1024) -> tuple[Pdu, list[Pdu]]:
    command = s.session.scsi(cdb.write10(0, blocks), edtl=blocks * 512, write=True)
    r2ts = s.session.exchange(command)
    assert {pdu.opcode for pdu in r2ts} == {Opcode.R2T}
    return command, r2ts


def write_with_r2ts_outstanding(s: Scene) -> Pdu:
    return _solicited(s)[0]


def write_with_a_burst_half_received(s: Scene) -> Pdu:
    command, (r2t, _) = _solicited(s)
    _quiet(s, s.session.data_out(command, bytes(8192), ttt=r2t.ttt, final=False))
    return command


def write_with_data_streaming_in(s: Scene) -> Pdu:
    command, (r2t, _) = _solicited(s)
    data = s.session.data_out(command, b"\xff" * 262144, ttt=r2t.ttt).encode()
    s.session.socket.feed(data[:100_000])
    s.rest = data[100_000:]
    return command


def write_in_the_store(s: Scene) -> Pdu:
    command = s.session.scsi(cdb.write10(0, 8), edtl=4096, write=True, data=bytes(4096))
    _quiet(s, command)
    assert len(s.store.held) == 1
    return command


def write_with_its_second_window_coming(s: Scene) -> Pdu:
    command, (first, second) = _solicited(s, 4096)
    for r2t in (first, second):
        s.session.exchange(
            s.session.data_out(command, bytes(262144), offset=r2t.buffer_offset, ttt=r2t.ttt)
        )
    return command


def parked_write(s: Scene) -> Pdu:
    """It has failed, and its status waits for the last of its data."""
    command = s.session.scsi(cdb.write10(1 << 30, 16), edtl=8192, write=True, final=False)
    _quiet(s, command)
    return command


def unmap_in_the_store(s: Scene) -> Pdu:
    parameters = bytes.fromhex("0016 0010 00000000 0000000000000000 00000800 00000000")
    command = s.session.scsi(cdb.unmap(24), edtl=24, write=True, data=parameters)
    _quiet(s, command)
    assert len(s.store.held) == 1
    return command


def flush_in_the_store(s: Scene) -> Pdu:
    command = s.session.scsi(cdb.synchronize_cache10())
    _quiet(s, command)
    assert len(s.store.held) == 1
    return command


def write_behind_another_on_the_same_blocks(s: Scene) -> Pdu:
    write_in_the_store(s)
    command = s.session.scsi(cdb.write10(4, 8), edtl=4096, write=True, data=bytes(4096))
    _quiet(s, command)
    assert len(s.store.held) == 1
    return command


STATES: list[Callable[[Scene], Pdu]] = [
    read_in_the_store,
    read_without_buffers,
    read_that_is_not_taken,
    read_between_windows,
    blocked_read,
    blocked_write,
    blocked_write_with_data_coming,
    write_with_unsolicited_data_coming,
    write_without_buffers,
    write_with_r2ts_outstanding,
    write_with_a_burst_half_received,
    write_in_the_store,
    write_with_its_second_window_coming,
    parked_write,
    unmap_in_the_store,
    flush_in_the_store,
    write_behind_another_on_the_same_blocks,
]

# Here nothing else can come on the same connection until the rest has.
ALL_STATES = [*STATES, write_with_data_streaming_in]
