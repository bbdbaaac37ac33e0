"""Which units an I_T nexus sees, and at which LUNs: targets, maps of its own, units that move."""

from __future__ import annotations

import uuid

import pytest

from target.block.volume import Volume
from target.scsi import sense as s
from target.scsi.access_list import Grant, Rights
from target.scsi.bus import SCSIBus
from target.scsi.disk import DiskDevice
from target.scsi.logical_unit import LogicalUnit
from target.scsi.lun import LunAddress
from target.scsi.nexus import Nexus, nobody_waits
from workers.memory_store import MemoryStore

A, B = "iqn.2026-11.test:a", "iqn.2026-11.test:b"
ISID = bytes(6)


def disk(name: str) -> DiskDevice:
    return DiskDevice(Volume(name, uuid.uuid5(uuid.NAMESPACE_DNS, name), [MemoryStore(1 << 20)]))


def seen(nexus: Nexus) -> dict[int, str]:
    return {it.number: it.unit.device.name for it in nexus.each_attachment()}


def attentions(nexus: Nexus) -> dict[int, list[s.Sense]]:
    """What is pending, which is forgotten."""
    found = {it.number: list(it.unit_attentions) for it in nexus.each_attachment()}
    for it in nexus.each_attachment():
        it.unit_attentions.clear()
    return found


@pytest.fixture
def bus() -> SCSIBus:
    bus = SCSIBus()
    for number, name in enumerate(("x", "y")):
        bus.add(number, disk(name), A)
    bus.add(0, disk("z"), B)
    return bus


def unit(bus: SCSIBus, target: str, number: int) -> LogicalUnit:
    return bus.units[LunAddress(target, number)]


def test_each_target_has_a_map_of_its_own(bus: SCSIBus) -> None:
    assert seen(bus.connect("i", ISID, target=A)) == {0: "x", 1: "y"}
    assert seen(bus.connect("i", ISID, target=B)) == {0: "z"}
    assert seen(bus.connect("i", ISID)) == {}


def test_what_comes_and_goes_is_told_to_its_own_target_only(bus: SCSIBus) -> None:
    here, there = bus.connect("i", ISID, target=A), bus.connect("i", ISID, target=B)
    attentions(here), attentions(there)
    bus.add(5, disk("new"), A)
    assert attentions(here) == {0: [s.UA_LUNS_CHANGED], 1: [s.UA_LUNS_CHANGED], 5: [s.UA_POWER_ON]}
    assert attentions(there) == {0: []}
    bus.remove(LunAddress(A, 5), nobody_waits)
    assert attentions(here) == {0: [s.UA_LUNS_CHANGED], 1: [s.UA_LUNS_CHANGED]}
    assert attentions(there) == {0: []}


def test_a_reset_is_of_one_target(bus: SCSIBus) -> None:
    here, there = bus.connect("i", ISID, target=A), bus.connect("i", ISID, target=B)
    attentions(here), attentions(there)
    bus.reset(A, lambda sure: None)
    assert attentions(here) == {0: [s.UA_BUS_RESET], 1: [s.UA_BUS_RESET]}
    assert attentions(there) == {0: []}


def test_a_unit_that_moves_is_gone_here_and_new_there(bus: SCSIBus) -> None:
    here, there = bus.connect("i", ISID, target=A), bus.connect("i", ISID, target=B)
    attentions(here), attentions(there)
    done: list[None] = []
    bus.move(unit(bus, A, 1), LunAddress(B, 7), lambda: done.append(None))
    assert done
    assert (seen(here), seen(there)) == ({0: "x"}, {0: "z", 7: "y"})
    assert attentions(here) == {0: [s.UA_LUNS_CHANGED]}
    assert attentions(there) == {0: [s.UA_LUNS_CHANGED], 7: [s.UA_POWER_ON]}
    assert unit(bus, B, 7).device.name == "y"


def test_a_place_that_is_taken_is_refused_and_nothing_moves(bus: SCSIBus) -> None:
    with pytest.raises(ValueError, match="taken"):
        bus.move(unit(bus, A, 1), LunAddress(B, 0), nobody_waits)
    assert seen(bus.connect("i", ISID, target=A)) == {0: "x", 1: "y"}


def test_a_lun_of_ones_own_goes_before_the_targets(bus: SCSIBus) -> None:
    rights = Rights({"x": Grant(True), "y": Grant(False, 0)})
    nexus = bus.connect("i", ISID, rights, A)
    assert seen(nexus) == {0: "y"}, "x has no LUN left"
    assert next(iter(nexus.each_attachment())).read_only
    nexus.set_rights(Rights({"x": Grant(True), "y": Grant(True, 9)}), nobody_waits)
    assert seen(nexus) == {0: "x", 9: "y"}
    bus.remove(LunAddress(A, 0), nobody_waits)
    assert seen(nexus) == {9: "y"}


def test_what_was_in_the_shadow_comes_out_when_the_other_goes(bus: SCSIBus) -> None:
    nexus = bus.connect("i", ISID, Rights({"x": Grant(True), "y": Grant(True, 0)}), A)
    bus.remove(LunAddress(A, 1), nobody_waits)
    assert seen(nexus) == {0: "x"}


def test_others_with_the_same_rights_keep_what_they_know(bus: SCSIBus) -> None:
    nexus = bus.connect("i", ISID, target=A)
    before = nexus.each_attachment()
    attentions(nexus)
    nexus.set_rights(Rights({"x": Grant(True), "y": Grant(False)}), nobody_waits)
    assert nexus.each_attachment() == before
    assert attentions(nexus) == {0: [], 1: []}
    assert [it.read_only for it in before] == [False, True]


def test_addresses_are_written_as_they_are_read() -> None:
    for address in (LunAddress("", 3), LunAddress(A, 300)):
        assert LunAddress.parse(str(address)) == address
    with pytest.raises(ValueError, match="invalid literal"):
        LunAddress.parse("x")
