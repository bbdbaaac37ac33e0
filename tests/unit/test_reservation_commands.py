"""PERSISTENT RESERVE IN and OUT, RESERVE and RELEASE as initiators meet them."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import pytest

from target.block.pool import BufferPool
from target.block.volume import Volume
from target.scsi import sense as s
from target.scsi.bus import SCSIBus
from target.scsi.disk import DiskDevice
from target.scsi.documents import Kept, MemoryStore
from target.scsi.limits import PARAMETER_BYTES_MAX
from target.scsi.logical_unit import Attribute, LogicalUnit
from target.scsi.request import SCSIRequest, State
from target.scsi.reservations.exclusive import PortCame
from target.scsi.reservations.names import NexusName, decode_transport_id, encode_transport_id
from target.scsi.reservations.state import Type
from target.scsi.sense import SenseKey, Status
from tests.support import reservations as pr
from tests.support.cdb import read10, write10
from tests.support.recording_hba import RecordingHba
from tests.support.scsi_disk import (
    TEST_UNIT_READY,
    UUID,
    Initiator,
    Rig,
    invalid_cdb,
    invalid_parameter,
    rig,
)
from tests.support.stores import HeldStore
from workers.memory_store import MemoryStore as MemoryVolume

GOOD, CONFLICT = Status.GOOD, Status.RESERVATION_CONFLICT
BLOCK = bytes(512)
KEY_A, KEY_B = 0x1122334455667788, 0xB
ISID = bytes(6)  # of every initiator here
SCOPE_ELEMENT = 0x20
DATA_BYTES = 65536


class Lasting(MemoryStore):
    """As good as a file."""

    lasting = True


@pytest.fixture
def it() -> Iterator[Rig]:
    with rig() as made:
        made.unit.reservations.keep_in(Lasting(), Kept(0, b""))
        yield made


@pytest.fixture
def one(it: Rig) -> Initiator:
    return it.initiator("iqn.test:One")


@pytest.fixture
def two(it: Rig) -> Initiator:
    return it.initiator("iqn.test:two")


def out(port: Initiator, action: int, data: bytes, kind: int = 0) -> bytes:
    return port.good(pr.pr_out(action, kind, len(data)), data)


def register(port: Initiator, key: int) -> None:
    out(port, pr.REGISTER, pr.keys(0, key))


def wrong(port: Initiator, action: int, data: bytes, kind: int = 0) -> s.Sense:
    return port.sense(pr.pr_out(action, kind, len(data)), data)


def keys_of(port: Initiator) -> tuple[int, ...]:
    data = port.good(pr.pr_in(pr.READ_KEYS))
    return struct.unpack(f">{len(data) // 8 - 1}Q", data[8:])


# --- PERSISTENT RESERVE IN ------------------------------------------------------------------------


def test_read_keys_and_read_reservation(one: Initiator, two: Initiator) -> None:
    assert one.good(pr.pr_in(pr.READ_KEYS)) == pr.read_keys_data(0)
    register(one, KEY_A)
    register(two, KEY_B)
    assert two.good(pr.pr_in(pr.READ_KEYS)) == pr.read_keys_data(2, KEY_A, KEY_B)
    assert two.good(pr.pr_in(pr.READ_RESERVATION)) == pr.reservation_data(2)
    out(one, pr.RESERVE, pr.keys(KEY_A), Type.EXCLUSIVE_ACCESS)
    held = pr.reservation_data(2, KEY_A, Type.EXCLUSIVE_ACCESS)
    assert two.good(pr.pr_in(pr.READ_RESERVATION)) == held
    out(one, pr.RELEASE, pr.keys(KEY_A), Type.EXCLUSIVE_ACCESS)
    out(one, pr.RESERVE, pr.keys(KEY_A), Type.WRITE_EXCLUSIVE_ALL_REGISTRANTS)
    held = pr.reservation_data(2, 0, Type.WRITE_EXCLUSIVE_ALL_REGISTRANTS)
    assert two.good(pr.pr_in(pr.READ_RESERVATION)) == held


@pytest.mark.parametrize("length", [0, 4, 8, 12, 16, 23])
def test_the_allocation_length_cuts_and_changes_nothing_else(
    one: Initiator, two: Initiator, length: int
) -> None:
    register(one, KEY_A)
    register(two, KEY_B)
    whole = pr.read_keys_data(2, KEY_A, KEY_B)
    assert one.good(pr.pr_in(pr.READ_KEYS, length)) == whole[:length]


def test_capabilities(it: Rig, one: Initiator) -> None:
    report = pr.pr_in(pr.REPORT_CAPABILITIES)
    assert one.good(report) == bytes.fromhex("0008 0d 90 ea01 0000")
    out(one, pr.REGISTER, pr.keys(0, KEY_A, pr.APTPL))
    assert one.good(report) == bytes.fromhex("0008 0d 91 ea01 0000")
    it.unit.reservations.keep_in(MemoryStore(), Kept(0, b""))
    assert one.good(report) == bytes.fromhex("0008 0c 90 ea01 0000")
    assert wrong(one, pr.REGISTER, pr.keys(0, KEY_A, pr.APTPL)) == invalid_parameter(20, 0)


def test_full_status(one: Initiator, two: Initiator) -> None:
    register(one, KEY_A)
    register(two, KEY_B)
    out(one, pr.RESERVE, pr.keys(KEY_A), Type.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY)
    data = one.good(pr.pr_in(pr.READ_FULL_STATUS))
    who_a = pr.transport_id("iqn.test:one", ISID)
    who_b = pr.transport_id("iqn.test:two", ISID)
    holder = struct.pack(">Q4xBB4xHI", KEY_A, 1, 0x06, 1, len(who_a)) + who_a
    other = struct.pack(">Q4xBB4xHI", KEY_B, 0, 0, 1, len(who_b)) + who_b
    assert data == struct.pack(">II", 2, len(holder + other)) + holder + other


# --- TransportIDs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x", "iqn.2026-11.io.lunmesh:a", "iqn." + "y" * 219])
def test_a_transport_id_is_read_as_it_was_written(name: str) -> None:
    nexus = NexusName(name, bytes.fromhex("80a1b2c3d4e5"), 7)
    encoded = encode_transport_id(nexus)
    assert encoded == pr.transport_id(name, nexus.isid)
    assert len(encoded) >= 24
    assert len(encoded) % 4 == 0
    who, nbytes = decode_transport_id(encoded + b"more")
    assert (who.initiator, who.isid, nbytes) == (name, nexus.isid, len(encoded))


@pytest.mark.parametrize(
    "data",
    [
        pr.transport_id("iqn.a", ISID)[:20],
        b"\x46" + pr.transport_id("iqn.a", ISID)[1:],  # SAS
        b"\x85" + pr.transport_id("iqn.a", ISID)[1:],  # a format that there is not
        b"\x05\0\0\x15" + pr.transport_id("iqn.a")[4:] + b"\0",  # no multiple of four
        pr.transport_id(""),
        pr.transport_id("iqn.a,i,0x12"),
        pr.transport_id("iqn." + "y" * 220),
        b"\x45" + pr.transport_id("iqn.a")[1:],  # no ISID
        pr.transport_id("iqn.a", ISID).replace(b",i,", b",t,"),
        pr.transport_id("iqn.a")[:-1] + b"x",
        b"\x05\0\xff\xfc" + pr.transport_id("iqn.a")[4:],
        pr.transport_id("iqn.a", ISID).replace(b"a,", b"\xff,"),
    ],
)
def test_what_is_no_transport_id(one: Initiator, data: bytes) -> None:
    data = pr.with_transport_ids(0, KEY_A, [data])
    assert wrong(one, pr.REGISTER, data) == invalid_parameter(28)
    assert keys_of(one) == ()


# --- PERSISTENT RESERVE OUT -----------------------------------------------------------------------


@pytest.mark.parametrize("action", range(8))
@pytest.mark.parametrize("length", [0, 8, 23, 25, PARAMETER_BYTES_MAX + 1, 0xFFFFFFFF])
def test_a_parameter_list_has_its_length(one: Initiator, action: int, length: int) -> None:
    data = pr.keys().ljust(25, b"\0")[: min(length, 25)]
    cdb = pr.pr_out(action, Type.WRITE_EXCLUSIVE, length)
    assert one.sense(cdb, data) == s.PARAMETER_LIST_LENGTH_ERROR


def test_a_parameter_list_that_does_not_come(one: Initiator) -> None:
    assert one.sense(pr.pr_out(pr.REGISTER), bytes(20)) == s.PARAMETER_LIST_LENGTH_ERROR


def test_what_is_wrong_in_the_cdb(one: Initiator) -> None:
    register(one, KEY_A)
    for kind in (0, 2, 4, 9, 15, SCOPE_ELEMENT | Type.WRITE_EXCLUSIVE):
        assert wrong(one, pr.RESERVE, pr.keys(KEY_A), kind) == invalid_cdb(2)
    assert one.sense(pr.pr_out(8), pr.keys()) == invalid_cdb(1, 4)
    assert one.sense(pr.pr_in(4)) == invalid_cdb(1, 4)
    out(one, pr.RESERVE, pr.keys(KEY_A), Type.WRITE_EXCLUSIVE)
    element = SCOPE_ELEMENT | Type.WRITE_EXCLUSIVE
    assert wrong(one, pr.RELEASE, pr.keys(KEY_A), element) == s.INVALID_RELEASE


@pytest.mark.parametrize("action", [1, 2, 3, 4, 5, 6])
def test_only_register_names_others(one: Initiator, action: int) -> None:
    data = pr.keys(0, KEY_A, pr.SPEC_I_PT)
    assert wrong(one, action, data, Type.WRITE_EXCLUSIVE) == invalid_parameter(20, 3)


def test_others_are_registered_by_name(one: Initiator, two: Initiator) -> None:
    absent = pr.transport_id("iqn.test:absent", b"\x80\0\0\0\0\1")
    here = pr.transport_id("iqn.test:TWO")  # all ports of that name
    out(one, pr.REGISTER, pr.with_transport_ids(0, KEY_A, [absent, here]))
    assert keys_of(two) == (KEY_A,) * 3
    out(two, pr.REGISTER, pr.keys(KEY_A, KEY_B))
    names = one.good(pr.pr_in(pr.READ_FULL_STATUS))
    for name in (b"iqn.test:one,i,", b"iqn.test:two,i,", b"iqn.test:absent,i,0x800000000001"):
        assert names.count(name) == 1


def test_a_name_of_which_no_port_is_known(one: Initiator) -> None:
    first = pr.transport_id("iqn.test:x", ISID)
    data = pr.with_transport_ids(0, KEY_A, [first, pr.transport_id("iqn.test:absent")])
    assert wrong(one, pr.REGISTER, data) == invalid_parameter(28 + len(first))


def test_a_name_without_isid_where_there_are_several_nodes(
    it: Rig, one: Initiator, two: Initiator
) -> None:
    """It may be logged in to others as well, of which this one does not know."""
    it.bus.all_ports = lambda: (2,)
    data = pr.with_transport_ids(0, KEY_A, [pr.transport_id("iqn.test:two")])
    assert wrong(one, pr.REGISTER, data) == invalid_parameter(28)


def test_a_list_of_names_has_its_length(one: Initiator) -> None:
    data = bytearray(pr.with_transport_ids(0, KEY_A, [pr.transport_id("iqn.a", ISID)]))
    data[27] += 4
    assert wrong(one, pr.REGISTER, bytes(data)) == s.PARAMETER_LIST_LENGTH_ERROR
    data[27] -= 8
    assert wrong(one, pr.REGISTER, bytes(data)) == s.PARAMETER_LIST_LENGTH_ERROR


def test_all_target_ports(it: Rig, one: Initiator) -> None:
    it.bus.all_ports = lambda: (2, 3)
    out(one, pr.REGISTER, pr.keys(0, KEY_A, pr.ALL_TG_PT))
    assert keys_of(one) == (KEY_A,) * 3
    out(one, pr.REGISTER, pr.keys(KEY_A, 0))
    assert keys_of(one) == (KEY_A,) * 2
    assert [nexus.port for nexus in it.unit.reservations.state.nexuses()] == [2, 3]


def test_a_port_that_is_new_is_one_of_all(it: Rig, one: Initiator) -> None:
    it.bus.all_ports = lambda: (2,)
    out(one, pr.REGISTER, pr.keys(0, KEY_A, pr.ALL_TG_PT))
    reservations = it.unit.reservations

    def came(port: int) -> list[tuple[int, int]]:
        reservations.lose(PortCame(port), lambda: None)
        return [(each.nexus.port, each.key) for each in reservations.state.registrations]

    assert came(2) == [(1, KEY_A), (2, KEY_A)]
    assert came(4) == [(port, KEY_A) for port in (1, 2, 3, 4)]
    out(one, pr.REGISTER, pr.keys(KEY_A, KEY_B))  # through this port alone
    assert came(5) == [(1, KEY_B), *((port, KEY_A) for port in (2, 3, 4, 5))]
    it.bus.all_ports = lambda: range(2, 6)
    out(one, pr.REGISTER_AND_IGNORE, pr.keys(0, 0, pr.ALL_TG_PT))
    assert came(6) == []
    out(one, pr.REGISTER, pr.keys(0, KEY_A))
    assert came(7) == [(1, KEY_A)]


def test_register_and_move(it: Rig, one: Initiator, two: Initiator) -> None:
    register(one, KEY_A)
    out(one, pr.RESERVE, pr.keys(KEY_A), Type.EXCLUSIVE_ACCESS)
    to = pr.transport_id("iqn.test:two", ISID)
    for data, at in (
        (pr.move(KEY_A, KEY_B, to, port=9), 18),
        (pr.move(KEY_A, KEY_B, pr.transport_id("iqn.test:two")), 24),
        (pr.move(KEY_A, KEY_B, to + to), 24),
        (pr.move(KEY_A, KEY_B, b"\x46" + to[1:]), 24),
        (pr.move(KEY_A, 0, to), 8),
    ):
        assert wrong(one, pr.MOVE, data) == invalid_parameter(at)
    assert wrong(one, pr.MOVE, pr.move(KEY_A, KEY_B, to)[:-4]) == s.PARAMETER_LIST_LENGTH_ERROR
    out(one, pr.MOVE, pr.move(KEY_A, KEY_B, to, flags=pr.UNREG | pr.APTPL))
    assert one.execute(read10(0, 1)).status is CONFLICT
    two.good(read10(0, 1))
    assert keys_of(two) == (KEY_B,)
    assert it.unit.reservations.state.aptpl


def test_what_the_others_learn(one: Initiator, two: Initiator) -> None:
    def learns(sense: s.Sense) -> None:
        assert two.sense(TEST_UNIT_READY) == sense
        two.good(TEST_UNIT_READY)

    for port, key in ((one, KEY_A), (two, KEY_B)):
        register(port, key)
    kind = Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
    out(one, pr.RESERVE, pr.keys(KEY_A), kind)
    out(one, pr.RELEASE, pr.keys(KEY_A), kind)
    learns(s.UA_RESERVATIONS_RELEASED)
    out(one, pr.PREEMPT, pr.keys(KEY_A, KEY_B), kind)
    learns(s.UA_REGISTRATIONS_PREEMPTED)
    register(two, KEY_B)
    out(one, pr.CLEAR, pr.keys(KEY_A))
    learns(s.UA_RESERVATIONS_PREEMPTED)
    one.good(TEST_UNIT_READY)


def test_a_registration_outlives_its_session(it: Rig, two: Initiator) -> None:
    gone = it.initiator("iqn.test:gone")
    register(gone, KEY_A)
    out(gone, pr.RESERVE, pr.keys(KEY_A), Type.EXCLUSIVE_ACCESS)
    gone.hba.close()
    it._initiators.remove(gone)
    assert two.execute(read10(0, 1)).status is CONFLICT
    again = it.initiator("iqn.test:gone")
    again.good(read10(0, 1))


def test_a_reset_leaves_what_is_persistent(it: Rig, one: Initiator, two: Initiator) -> None:
    register(one, KEY_A)
    out(one, pr.RESERVE, pr.keys(KEY_A), Type.EXCLUSIVE_ACCESS)
    it.unit.reset(lambda sure: None)
    one.settle()
    assert two.sense(TEST_UNIT_READY) == s.UA_DEVICE_RESET
    assert two.execute(read10(0, 1)).status is CONFLICT


# --- RESERVE and RELEASE of SPC-2 -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("reserve", "release"), [(pr.RESERVE6, pr.RELEASE6), (pr.RESERVE10, pr.RELEASE10)]
)
def test_reserve_and_release(
    one: Initiator, two: Initiator, reserve: bytes, release: bytes
) -> None:
    one.good(reserve)
    one.good(reserve)
    assert two.execute(reserve).status is CONFLICT
    two.good(release)
    assert two.execute(TEST_UNIT_READY).status is CONFLICT
    assert two.execute(pr.pr_out(pr.REGISTER), pr.keys(0, KEY_B)).status is CONFLICT
    assert one.execute(pr.pr_out(pr.REGISTER), pr.keys(0, KEY_B)).status is CONFLICT
    one.good(release)
    two.good(TEST_UNIT_READY)
    register(two, KEY_B)
    assert one.execute(reserve).status is CONFLICT
    assert one.execute(release).status is CONFLICT


@pytest.mark.parametrize("opcode", [0x16, 0x17, 0x56, 0x57])
@pytest.mark.parametrize("bit", [0, 1, 4])
def test_third_parties_and_extents_are_refused(one: Initiator, opcode: int, bit: int) -> None:
    assert one.sense(bytes((opcode, 1 << bit)) + bytes(8)) == invalid_cdb(1, bit)


# --- commands that run and commands that wait -----------------------------------------------------


class Bench:
    """A disk whose store does nothing until told, and two nexuses that have registered."""

    def __init__(self) -> None:
        self.store = HeldStore(MemoryVolume(1 << 20))
        self.bus = SCSIBus()
        self.unit: LogicalUnit = self.bus.add(0, DiskDevice(Volume("disk0", UUID, [self.store])))
        self.pool = BufferPool(8 << 20)
        self.one, self.two = (RecordingHba(self.bus, self.pool, name) for name in ("one", "two"))
        for hba, key in ((self.one, KEY_A), (self.two, KEY_B)):
            hba.settle()
            assert self.out(hba, pr.REGISTER, pr.keys(0, key)).status == GOOD

    def out(self, hba: RecordingHba, action: int, data: bytes, kind: int = 1) -> SCSIRequest:
        return hba.submit(pr.pr_out(action, kind, len(data)), early=data)

    def write(
        self, hba: RecordingHba, attribute: Attribute = Attribute.SIMPLE, *, transient: bool = False
    ) -> SCSIRequest:
        return hba.submit(write10(0, 1), attribute, early=BLOCK, transient=transient)

    def close(self) -> None:
        assert not self.unit.active
        for hba in (self.one, self.two):
            hba.close()
        assert self.pool.used == 0


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_what_runs_goes_on_and_what_waits_is_asked_when_it_runs(bench: Bench) -> None:
    running = bench.write(bench.two)
    waits = bench.write(bench.two, Attribute.ORDERED, transient=True)
    assert (running.state, waits.state) == (State.RUNNING, State.BLOCKED)
    bench.unit.reservations.keep_in(MemoryStore(), Kept(0, b""))
    head = bench.one.submit(pr.RESERVE6, Attribute.HEAD_OF_QUEUE)
    assert head.status == GOOD
    assert (running.state, waits.state) == (State.RUNNING, State.BLOCKED)
    bench.store.release_all()
    assert Status(running.status) is GOOD
    assert Status(waits.status) is CONFLICT
    assert bench.one.submit(pr.RELEASE6).status == GOOD


def test_what_waits_runs_if_the_reservation_is_gone_by_then(bench: Bench) -> None:
    bench.out(bench.one, pr.RESERVE, pr.keys(KEY_A))
    running = bench.write(bench.one)
    ordered = bench.out(bench.one, pr.RELEASE, pr.keys(KEY_A))
    assert Status(ordered.status) is GOOD
    waits = bench.write(bench.two, Attribute.ORDERED)
    assert waits.state == State.BLOCKED
    bench.store.release_all()
    assert (running.status, waits.status) == (GOOD, GOOD)


def test_preempt_and_abort_answers_when_the_commands_are_gone(bench: Bench) -> None:
    bench.out(bench.two, pr.RESERVE, pr.keys(KEY_B))
    mine = bench.one.submit(read10(0, 1))
    running = bench.write(bench.two)
    waits = bench.write(bench.two, Attribute.ORDERED)
    req = bench.one.submit(
        pr.pr_out(pr.PREEMPT_AND_ABORT, 1),
        Attribute.HEAD_OF_QUEUE,
        early=pr.keys(KEY_A, KEY_B),
    )
    assert (running.state, waits.state) == (State.RUNNING, State.ABORTED)
    assert req.state == State.RUNNING
    bench.store.release_all()
    assert (running.state, Status(req.status)) == (State.ABORTED, GOOD)
    assert Status(mine.status) is GOOD, "it was not preempted"
    attentions = bench.two.nexus.attachments[bench.two.lun].unit_attentions
    assert attentions == [s.UA_REGISTRATIONS_PREEMPTED, s.UA_COMMANDS_CLEARED]
    bench.two.settle()
    assert bench.write(bench.two).status == CONFLICT


def test_preempt_and_abort_with_commands_of_the_victim_queued_behind_it(bench: Bench) -> None:
    """The end of one of them starts another, which ends at once: it is in conflict."""
    bench.out(bench.two, pr.RESERVE, pr.keys(KEY_B))
    bench.one.submit(read10(0, 1), Attribute.ORDERED)
    req = bench.out(bench.one, pr.PREEMPT_AND_ABORT, pr.keys(KEY_A, KEY_B))
    queued = [bench.write(bench.two) for _ in range(2)]
    assert {each.state for each in (req, *queued)} == {State.BLOCKED}
    bench.store.release_all()
    assert (req.state, Status(req.status)) == (State.COMPLETED, GOOD)
    assert all(each.state >= State.COMPLETED for each in queued)
    bench.two.settle()


@pytest.mark.parametrize(
    ("action", "prevented"), [(pr.PREEMPT, True), (pr.PREEMPT_AND_ABORT, False)]
)
def test_who_is_aborted_prevents_the_removal_of_the_medium_no_more(
    bench: Bench, action: int, prevented: bool
) -> None:
    bench.two.submit(bytes.fromhex("1e0000000100"))
    assert bench.out(bench.one, action, pr.keys(KEY_A, KEY_B)).status == GOOD
    disk = bench.unit.device
    assert isinstance(disk, DiskDevice)
    assert bool(disk.removal_prevented_by) == prevented
    bench.two.settle()


def test_two_that_preempt_each_other(bench: Bench) -> None:
    """The first one wins; the second one's command is among those that are aborted or in vain."""
    running = [bench.write(bench.one), bench.write(bench.two)]
    first = bench.out(bench.one, pr.PREEMPT_AND_ABORT, pr.keys(KEY_A, KEY_B))
    bench.two.settle()
    second = bench.out(bench.two, pr.PREEMPT_AND_ABORT, pr.keys(KEY_B, KEY_A))
    assert second.status == CONFLICT
    bench.store.release_all()
    assert first.status == GOOD
    assert [req.state for req in running] == [State.COMPLETED, State.ABORTED]
    bench.two.settle()


def test_who_preempts_is_aborted_in_turn(bench: Bench) -> None:
    third = RecordingHba(bench.bus, bench.pool, "three")
    third.settle()
    bench.out(third, pr.REGISTER, pr.keys(0, 0xC))
    running = bench.write(bench.two)
    first = bench.out(bench.one, pr.PREEMPT_AND_ABORT, pr.keys(KEY_A, KEY_B))
    second = bench.out(third, pr.PREEMPT_AND_ABORT, pr.keys(0xC, KEY_A))
    assert {first.state, second.state} == {State.RUNNING}
    bench.store.release_all()
    assert (running.state, first.state) == (State.ABORTED, State.ABORTED)
    assert second.status == GOOD
    third.close()


@pytest.mark.parametrize("end", ["reset", "nexus loss"])
def test_a_reservation_ends_when_the_commands_of_its_holder_have(bench: Bench, end: str) -> None:
    """The next holder must not meet a write of the last one."""
    third = RecordingHba(bench.bus, bench.pool, "three")
    third.settle()
    for hba, key in ((bench.one, KEY_A), (bench.two, KEY_B)):
        bench.out(hba, pr.REGISTER, pr.keys(key, 0))
    assert third.submit(pr.RESERVE6).status == GOOD
    running = bench.write(third)
    done: list[str] = []
    if end == "reset":
        bench.unit.reset(lambda sure: done.append("done"))
        bench.one.settle()
    else:
        bench.bus.disconnect(third.nexus, lambda: done.append("done"))
    assert (running.state, done) == (State.RUNNING, [])
    assert bench.one.submit(pr.RESERVE6).status == CONFLICT
    bench.store.release_all()
    assert (running.state, done) == (State.ABORTED, ["done"])
    assert bench.one.submit(pr.RESERVE6).status == GOOD
    assert bench.one.submit(pr.RELEASE6).status == GOOD
    bench.two.settle()
    if end == "reset":
        third.close()
    else:
        third.share.close()


def test_a_command_in_conflict_gives_its_data_back(bench: Bench) -> None:
    bench.out(bench.one, pr.RESERVE, pr.keys(KEY_A))
    for transient in (False, True):
        req = bench.write(bench.two, transient=transient)
        assert req.status == CONFLICT
    assert bench.pool.used == 0
    assert not bench.two.solicited


def test_data_of_a_command_in_conflict_is_not_asked_for(bench: Bench) -> None:
    bench.out(bench.one, pr.RESERVE, pr.keys(KEY_A))
    assert bench.two.submit(write10(0, 8)).status == CONFLICT
    assert not bench.two.solicited


# --- anything at all ------------------------------------------------------------------------------


def any_list(rng: random.Random, known: list[int]) -> tuple[int, bytes]:
    """A service action and its parameter list, with noise."""
    action = rng.randrange(8)
    existing, new = (rng.choice([0, KEY_A, KEY_B, *known]) for _ in range(2))
    who = pr.transport_id(rng.choice(["first", "iqn.test:x", ""]), rng.choice([None, ISID]))
    if action == pr.MOVE:
        data = pr.move(existing, new, who, flags=rng.randrange(4), port=rng.choice([1, 1, 2]))
    elif action == pr.REGISTER and rng.random() < 0.3:
        data = pr.with_transport_ids(existing, new, [who] * rng.randrange(4), rng.choice([0, 4]))
    else:
        data = pr.keys(existing, new, rng.choice([0, 0, 0, pr.APTPL, pr.ALL_TG_PT, 0xFF]))
    mutable = bytearray(data)
    if rng.random() < 0.2:
        mutable[rng.randrange(len(mutable))] ^= 1 << rng.randrange(8)
    if rng.random() < 0.1:
        mutable += rng.randbytes(rng.randrange(64))
    if rng.random() < 0.1:
        del mutable[rng.randrange(len(mutable)) :]
    return action, bytes(mutable)


@pytest.mark.parametrize("seed", range(2))
def test_any_parameter_list_is_answered_and_leaves_nothing_behind(it: Rig, seed: int) -> None:
    rng = random.Random(seed)
    ports = [it.initiator(name, early_bytes_max=n) for name, n in (("first", 0), ("2nd", 4096))]
    answers = dict.fromkeys(Status, 0)
    for _ in range(1000):
        state = it.unit.reservations.state
        action, data = any_list(rng, [entry.key for entry in state.registrations])
        length = len(data) if rng.random() < 0.95 else rng.randrange(128)
        port = rng.choice(ports)
        result = port.execute(pr.pr_out(action, rng.choice([*Type, 0, 0x21]), length), data)
        answers[result.status] += 1
        assert it.segments_used == 0
        if result.sense is not None:
            assert result.sense.key in (SenseKey.ILLEGAL_REQUEST, SenseKey.UNIT_ATTENTION)
        for read in range(4):
            ports[0].execute(pr.pr_in(read, rng.choice([0, 8, 24, 0xFFFF])))
    assert min(answers[GOOD], answers[CONFLICT], answers[Status.CHECK_CONDITION]) > 50
