"""Asymmetric access: REPORT and SET TARGET PORT GROUPS, and what a port that is not active runs."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from target.scsi import sense as s
from target.scsi.sense import Sense, Status
from tests.support import reservations as pr
from tests.support.cdb import read10, write10
from tests.support.scsi_disk import (
    TEST_UNIT_READY,
    Initiator,
    Rig,
    invalid_cdb,
    invalid_parameter,
    rig,
)
from tests.support.two_nodes import Cluster, Node

OPTIMIZED, NON_OPTIMIZED, STANDBY, UNAVAILABLE, OFFLINE, TRANSITIONING = 0, 1, 2, 3, 0xE, 0xF
NOT_SET, SET, IMPLICIT = 0, 1, 2
BLOCK = bytes(512)
MODE_SENSE, LOG_SENSE = bytes.fromhex("1a003f00ff00"), bytes.fromhex("4d004000000000ff0000")
INQUIRY, REPORT_LUNS = bytes.fromhex("12000000ff00"), bytes.fromhex("a00000000000000000ff0000")
REQUEST_SENSE = bytes.fromhex("03000000ff00")


def report(length: int = 4096, form: int = 0) -> bytes:
    return struct.pack(">BB4xI2x", 0xA3, 0x0A | form << 5, length)


def select(length: int) -> bytes:
    return struct.pack(">BB4xI2x", 0xA4, 0x0A, length)


def states(*groups: tuple[int, int]) -> bytes:
    """A parameter list of SET TARGET PORT GROUPS, from (group, state)."""
    return bytes(4) + b"".join(struct.pack(">BxH", state, number) for number, state in groups)


def groups_in(data: bytes, header: int = 4) -> dict[int, tuple[int, int]]:
    """State and status of each group; every one has one port, of its number."""
    assert int.from_bytes(data[:4]) == len(data) - 4
    found = {}
    for at in range(header, len(data), 12):
        state, supported, number, status, ports, port = struct.unpack_from(">BBHxBxBxxH", data, at)
        assert (supported, ports, port) == (0x0F, 1, number)
        found[number] = (state, status)
    return found


@pytest.fixture
def it() -> Iterator[Rig]:
    with rig() as made:
        yield made


@pytest.fixture
def one(it: Rig) -> Initiator:
    return it.initiator()


def test_one_node_is_one_group(one: Initiator) -> None:
    assert groups_in(one.good(report())) == {1: (OPTIMIZED, NOT_SET)}
    assert one.good(report(4)) == one.good(report())[:4]
    assert one.good(bytes.fromhex("12000000ff00"))[5] >> 4 & 3 == 3, "TPGS"


def test_the_extended_format(one: Initiator) -> None:
    data = one.good(report(form=1))
    assert data[4:8] == bytes((0x10, 0, 0, 0))
    assert groups_in(data, 8) == {1: (OPTIMIZED, NOT_SET)}
    assert one.sense(report(form=2)) == invalid_cdb(1, 7)


def test_nodes_that_are_gone_are_unavailable_and_everybody_is_told(it: Rig, one: Initiator) -> None:
    it.bus.live_ports = lambda: (1, 7)
    it.bus.gone_ports = lambda: (3,)
    it.bus.ports_changed()
    assert one.sense(TEST_UNIT_READY) == s.UA_ACCESS_STATE_CHANGED
    assert groups_in(one.good(report())) == {
        1: (OPTIMIZED, NOT_SET),
        3: (UNAVAILABLE, IMPLICIT),
        7: (OPTIMIZED, NOT_SET),
    }


def test_who_sets_a_state_knows_and_the_others_are_told(it: Rig, one: Initiator) -> None:
    other = it.initiator("other")
    data = states((1, NON_OPTIMIZED))
    one.good(select(len(data)), data)
    one.good(TEST_UNIT_READY)
    assert other.sense(TEST_UNIT_READY) == s.UA_ACCESS_STATE_CHANGED
    assert groups_in(other.good(report())) == {1: (NON_OPTIMIZED, SET)}
    one.good(read10(0, 1))
    one.good(select(len(data)), data)
    other.good(TEST_UNIT_READY)  # nothing is other than before


@pytest.mark.parametrize(
    ("state", "sense"), [(STANDBY, s.NOT_READY_STANDBY), (UNAVAILABLE, s.NOT_READY_UNREACHABLE)]
)
def test_what_runs_through_a_port_that_is_not_active(
    one: Initiator, state: int, sense: Sense
) -> None:
    data = states((1, state))
    one.good(select(len(data)), data)
    for cdb in (INQUIRY, REPORT_LUNS, REQUEST_SENSE, report(), bytes.fromhex("a30c") + bytes(10)):
        one.good(cdb)
    in_standby = (MODE_SENSE, LOG_SENSE, pr.pr_in(pr.READ_KEYS))
    for cdb in (*in_standby, TEST_UNIT_READY, read10(0, 1), bytes.fromhex("250000000000000000 00")):
        if state == STANDBY and cdb in in_standby:
            one.good(cdb)
        else:
            assert one.sense(cdb) == sense
    assert one.sense(write10(0, 1), BLOCK) == sense
    data = states((1, OPTIMIZED))
    one.good(select(len(data)), data)
    one.good(write10(0, 1), BLOCK)


def test_a_state_outlives_a_reset(it: Rig, one: Initiator) -> None:
    data = states((1, STANDBY))
    one.good(select(len(data)), data)
    it.unit.reset(lambda sure: None)
    assert one.sense(TEST_UNIT_READY) == s.UA_DEVICE_RESET
    assert one.sense(TEST_UNIT_READY) == s.NOT_READY_STANDBY


def test_an_empty_list_changes_nothing(one: Initiator) -> None:
    one.good(select(0))
    one.good(select(4), bytes(4))
    assert groups_in(one.good(report())) == {1: (OPTIMIZED, NOT_SET)}


@pytest.mark.parametrize("length", [1, 3, 5, 7, 9, 11])
def test_a_list_that_ends_in_the_middle(one: Initiator, length: int) -> None:
    data = states((1, STANDBY), (2, STANDBY))[:length]
    assert one.sense(select(length), data) == s.PARAMETER_LIST_LENGTH_ERROR
    one.good(TEST_UNIT_READY)


@pytest.mark.parametrize(
    ("groups", "sense"),
    [
        ([(1, OFFLINE)], invalid_parameter(4, 3)),
        ([(1, TRANSITIONING)], invalid_parameter(4, 3)),
        ([(1, STANDBY), (1, OPTIMIZED)], invalid_parameter(10)),
        ([(1, STANDBY), (2, OPTIMIZED)], invalid_parameter(10)),
        ([(0, STANDBY)], invalid_parameter(6)),
    ],
)
def test_a_list_is_believed_as_a_whole_or_not_at_all(
    one: Initiator, groups: list[tuple[int, int]], sense: Sense
) -> None:
    data = states(*groups)
    assert one.sense(select(len(data)), data) == sense
    one.good(TEST_UNIT_READY)


def test_states_are_the_same_on_every_node() -> None:
    it = Cluster()
    data = states((1, STANDBY), (2, NON_OPTIMIZED))
    assert it.one.status(select(len(data)), data) is Status.GOOD
    for node in (it.one, it.two):
        attentions = node.hba.nexus.attachments[node.hba.lun].unit_attentions
        assert attentions == ([s.UA_ACCESS_STATE_CHANGED] if node is it.two else [])
        node.hba.settle()
    assert it.one.status(read10(0, 1)) is Status.CHECK_CONDITION
    assert it.two.status(read10(0, 1)) is Status.GOOD
    late = Node(3, it.shared, it.settings)
    assert [(g.number, g.state) for g in late.unit.port_groups()][:2] == [(1, 2), (2, 1)]
    it.close()
