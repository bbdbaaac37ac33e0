"""Several targets at one node: logins, discovery, portal groups, LUNs of one's own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import msgspec
import pytest

from target.block.volume import Volume
from target.iscsi import errors as target_errors
from target.iscsi.constants import LoginStatus
from target.iscsi.login_policy import LoginIdentity
from target.iscsi.parameters import SessionParameters
from target.iscsi.targets import ServedTarget, TargetList
from target.scsi.access_list import AccessEntry, AccessList
from target.scsi.disk import DiskDevice
from target.scsi.lun import LunAddress
from target.scsi.nexus import nobody_waits
from target.scsi.unit_events import ResetUnit
from tests.support import cdb
from tests.support.initiator import LoginRefused
from tests.support.iscsi_socket import Disconnected
from tests.support.stores import HeldStore
from tests.support.wire import TARGET, Wire, wire
from tests.support.wire_initiator import WireInitiator
from workers.memory_store import MemoryStore

ONE = "iqn.2026-11.test:one"
OTHER = "iqn.2026-11.io.lunmesh:other"
SAN = "iqn.2026-11.io.lunmesh:san"  # reached at portals of the group "san" only
SAN_ONLY = frozenset({"san"})
NOT_FOUND, AUTHORIZATION_FAILURE = (2, 3), (2, 2)
LUN_NOT_SUPPORTED = (5, 0x25, 0)
ISID = bytes(5) + b"\x01"


@pytest.fixture
def w() -> Iterator[Wire]:
    with wire() as w:
        own = ServedTarget(TARGET)
        san = ServedTarget(SAN, SAN, frozenset({"san"}))
        w.target.targets = TargetList(own, [ServedTarget(OTHER, OTHER), san])
        for number, (name, target) in enumerate((("b", OTHER), ("c", SAN))):
            volume = Volume(name, uuid.UUID(int=100 + number), [MemoryStore(1 << 20)])
            w.bus.add(3 + number, DiskDevice(volume), target)
        yield w


def login(w: Wire, target: str, *, group: str = "", isid: bytes = ISID) -> WireInitiator:
    w.group = group
    session = w.initiator(ONE, isid=isid, target=target)
    session.login()
    return session


def refused(w: Wire, target: str, *, group: str = "") -> tuple[int, int]:
    with pytest.raises(LoginRefused) as error:
        login(w, target, group=group)
    return error.value.pdu.status_class, error.value.pdu.status_detail


def found(w: Wire, group: str = "") -> dict[str, list[str]]:
    w.group = group
    session = w.initiator(ONE, target=None)
    session.login(discovery=True)
    return dict(session.send_targets())


def settle(session: WireInitiator, lun: int) -> None:
    """Take the unit attentions that are pending."""
    while session.command(cdb.TEST_UNIT_READY, lun=lun).status:
        pass


def luns(session: WireInitiator) -> list[int]:
    data = session.command(cdb.report_luns(), read_length=4096).data_in
    return [data[at + 1] for at in range(8, len(data), 8)]


def test_each_has_its_luns(w: Wire) -> None:
    assert luns(login(w, TARGET)) == [0]
    assert luns(login(w, OTHER)) == [3]
    assert luns(login(w, SAN, group="san")) == [4]


def test_names_fold_case_and_unknown_ones_are_not_found(w: Wire) -> None:
    assert luns(login(w, OTHER.upper())) == [3]
    assert refused(w, "iqn.2026-11.io.lunmesh:nobody") == NOT_FOUND


def test_a_portal_of_another_group_does_not_lead_there(w: Wire) -> None:
    assert refused(w, SAN) == NOT_FOUND
    assert refused(w, SAN, group="lan") == NOT_FOUND


def test_discovery_tells_what_can_be_reached_and_where(w: Wire) -> None:
    w.target.addresses.append(("198.51.100.1", 3260, "san"))
    w.target.other_portals = lambda _: [(2, [("192.0.2.2:3260", ""), ("198.51.100.2:3260", "san")])]
    both = ["192.0.2.1:3260,1", "198.51.100.1:3260,1", "192.0.2.2:3260,2", "198.51.100.2:3260,2"]
    assert found(w) == {TARGET: both, OTHER: both}
    of_san = ["192.0.2.1:3260,1", "198.51.100.1:3260,1", "198.51.100.2:3260,2"]
    assert found(w, "san")[SAN] == of_san, "the portal that was asked is of the group"


def test_a_normal_session_is_told_of_its_own_target(w: Wire) -> None:
    session = login(w, OTHER)
    assert [name for name, _ in session.send_targets("")] == [OTHER]
    assert session.text({"SendTargets": TARGET}) == {"SendTargets": "Reject"}


def test_the_same_isid_with_another_target_is_another_session(w: Wire) -> None:
    here, there = login(w, TARGET), login(w, OTHER)
    assert here.nop(b"still") == b"still"
    again = login(w, OTHER)
    with pytest.raises(Disconnected):
        there.nop(b"gone")
    assert again.nop(b"here") == b"here"
    assert here.nop(b"still") == b"still"


def test_a_cold_reset_ends_the_sessions_of_its_target(w: Wire) -> None:
    here, there = login(w, TARGET), login(w, OTHER)
    there.task_management(7)
    with pytest.raises(Disconnected):
        there.nop(b"gone")
    assert here.nop(b"still") == b"still"


def test_a_target_that_is_deleted_takes_its_sessions_along(w: Wire) -> None:
    here, there = login(w, TARGET), login(w, OTHER)
    done: list[None] = []
    w.target.set_targets(TargetList(ServedTarget(TARGET)), lambda: done.append(None))
    assert done
    with pytest.raises(Disconnected):
        there.nop(b"gone")
    assert here.nop(b"still") == b"still"
    assert refused(w, OTHER) == NOT_FOUND


def test_a_target_that_leaves_a_portal_ends_the_sessions_there(w: Wire) -> None:
    there, by_san = login(w, OTHER), login(w, OTHER, group="san", isid=bytes(5) + b"\x02")
    san_only = [ServedTarget(OTHER, OTHER, SAN_ONLY)]
    done: list[None] = []
    w.target.set_targets(TargetList(ServedTarget(TARGET), san_only), lambda: done.append(None))
    assert done
    with pytest.raises(Disconnected):
        there.nop(b"gone")
    assert by_san.nop(b"still") == b"still"
    assert refused(w, OTHER) == NOT_FOUND
    w.target.set_targets(
        TargetList(ServedTarget(TARGET), [ServedTarget(OTHER, OTHER)]), nobody_waits
    )
    assert luns(login(w, OTHER)) == [3]


def test_a_session_that_ends_at_such_a_portal_is_waited_for() -> None:
    store = HeldStore(MemoryStore(1 << 20))
    with wire(stores=[store]) as w:
        session = w.login()
        session.exchange(session.scsi(cdb.write10(0, 1), edtl=512, write=True, data=bytes(512)))
        session.close()
        done: list[None] = []
        san_only = TargetList(ServedTarget(TARGET, "", SAN_ONLY))
        w.target.set_targets(san_only, lambda: done.append(None))
        assert not done
        store.release_all()
        assert done


def test_a_target_that_leaves_a_portal_during_a_login_is_not_found(w: Wire) -> None:
    w.group = "lan"
    session = w.initiator(ONE, target=OTHER)
    channel = session.channel
    w.target.targets = TargetList(ServedTarget(TARGET), [ServedTarget(OTHER, OTHER, SAN_ONLY)])
    identity = LoginIdentity(initiator=ONE, target=OTHER, isid=ISID, tsih=0, cid=0, user=None)
    with pytest.raises(target_errors.LoginRefused) as error:
        w.target.attach(identity, SessionParameters(), 1, channel)
    assert error.value.status is LoginStatus.NOT_FOUND


def test_access_is_to_the_targets_of_ones_volumes(w: Wire) -> None:
    where = {"disk0": TARGET, "b": OTHER, "c": SAN}
    entry = AccessEntry(initiator=ONE, volumes={"b": "rw"}, luns={"b": 0})
    w.target.set_access(AccessList((entry,), where.__getitem__), nobody_waits)
    assert refused(w, TARGET) == AUTHORIZATION_FAILURE
    assert list(found(w)) == [OTHER]
    session = login(w, OTHER)
    assert luns(session) == [0], "at the LUN that the entry says"
    settle(session, 0)
    assert session.command(cdb.read10(0, 1), read_length=512).status == 0
    assert session.command(cdb.read10(0, 1), read_length=512, lun=3).sense_triple == (
        LUN_NOT_SUPPORTED
    )


def test_a_volume_that_moves_is_told_to_both(w: Wire) -> None:
    here, there = login(w, TARGET), login(w, OTHER)
    settle(here, 0)
    settle(there, 3)
    w.bus.move(w.bus.units[LunAddress(OTHER, 3)], LunAddress("", 9), nobody_waits)
    assert here.command(cdb.TEST_UNIT_READY).sense_triple == (6, 0x3F, 0x0E)
    assert luns(here) == [0, 9]
    assert luns(there) == []
    assert there.command(cdb.TEST_UNIT_READY, lun=3).sense_triple == LUN_NOT_SUPPORTED


def test_a_cold_reset_of_another_node_ends_sessions_once(w: Wire) -> None:
    """However many units it tells of, and however soon their initiators are back."""
    here, there = login(w, TARGET), login(w, OTHER)
    event = ResetUnit(asc=0x29, ascq=2, cold="one")
    unit = w.bus.units[LunAddress(OTHER, 3)]
    unit.happened(event, nobody_waits)
    with pytest.raises(Disconnected):
        there.nop(b"gone")
    assert here.nop(b"still") == b"still"
    again = login(w, OTHER)
    unit.happened(event, nobody_waits)
    assert again.nop(b"still") == b"still"
    unit.happened(msgspec.structs.replace(event, cold="two"), nobody_waits)
    with pytest.raises(Disconnected):
        again.nop(b"gone")
