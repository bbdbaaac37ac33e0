"""What runs under a reservation: every type, every role, every command (SPC-4 table 65, SBC-3 table
13, SPC-2 table 9).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from target.scsi import sense as s
from target.scsi.command import Access
from target.scsi.reservations.state import Type
from target.scsi.sense import Status
from tests.support import reservations as pr
from tests.support.cdb import inquiry, read10, report_luns, request_sense, write10
from tests.support.scsi_disk import TEST_UNIT_READY, Initiator, Rig, rig

BLOCK = bytes(512)
KEYS = {"holder": 0xA, "registrant": 0xB}
NAMES = ("holder", "registrant", "stranger")

W, E = "write exclusive", "exclusive access"
FAMILY = {
    Type.WRITE_EXCLUSIVE: W,
    Type.EXCLUSIVE_ACCESS: E,
    Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY: W,
    Type.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY: E,
    Type.WRITE_EXCLUSIVE_ALL_REGISTRANTS: W,
    Type.EXCLUSIVE_ACCESS_ALL_REGISTRANTS: E,
}
HOLDER_ONLY = {Type.WRITE_EXCLUSIVE, Type.EXCLUSIVE_ACCESS}

# (CDB, data-out) and under which family it is in conflict for whoever has no access.
ASKING: list[tuple[bytes, bytes, set[str]]] = [
    (TEST_UNIT_READY, b"", set()),
    (inquiry(), b"", set()),
    (request_sense(), b"", set()),
    (report_luns(), b"", set()),
    (bytes.fromhex("25000000000000000000"), b"", set()),  # READ CAPACITY(10)
    (bytes.fromhex("4d004000000000ff0000"), b"", set()),  # LOG SENSE
    (pr.pr_in(pr.READ_KEYS), b"", set()),
    (bytes.fromhex("1b0000000100"), b"", set()),  # START STOP UNIT, to start
    (bytes.fromhex("1e0000000000"), b"", set()),  # PREVENT ALLOW MEDIUM REMOVAL, to allow
    (read10(0, 1), b"", {E}),
    (bytes.fromhex("34000000000000000100"), b"", {E}),  # PRE-FETCH(10)
    (bytes.fromhex("2f000000000000000100"), b"", {E}),  # VERIFY(10)
    (bytes.fromhex("9e1200000000000000000000ffff0000"), b"", {E}),  # GET LBA STATUS
    (bytes.fromhex("1a003f00ff00"), b"", {E}),  # MODE SENSE(6)
    (bytes.fromhex("a30c00000000000000ff0000"), b"", {E}),  # REPORT SUPPORTED OPERATION CODES
    (write10(0, 1), BLOCK, {W, E}),
    (bytes.fromhex("35000000000000000000"), b"", {W, E}),  # SYNCHRONIZE CACHE(10)
    (bytes.fromhex("1d0000000000"), b"", {W, E}),  # SEND DIAGNOSTIC
    (bytes.fromhex("1e0000000100"), b"", {W, E}),  # PREVENT ALLOW MEDIUM REMOVAL, to prevent
    (bytes.fromhex("1b0000000000"), b"", {W, E}),  # START STOP UNIT, to stop
]
FREE_OF_SPC2 = {inquiry()[0], request_sense()[0], report_luns()[0], 0x25, 0x4D, 0x5E}

ALWAYS, READY, READ, WRITE, OWN = Access
NEEDS = {
    ALWAYS: "03 12 25 4d 5e/0 5e/1 5e/2 5e/3 9e/10 a0 a3/a",
    READY: "00",
    READ: "08 28 a8 88 1a 5a 2f af 8f 34 90 9e/12 a3/c a3/d",
    WRITE: "0a 15 1b 1d 1e 2a 2e 35 41 42 55 89 8a 8e 91 93 a4/a aa ae",
    OWN: "16 17 56 57 5f/0 5f/1 5f/2 5f/3 5f/4 5f/5 5f/6 5f/7",
}


@pytest.fixture
def it() -> Iterator[Rig]:
    with rig() as made:
        yield made


@pytest.fixture
def ports(it: Rig) -> dict[str, Initiator]:
    return {name: it.initiator(name) for name in NAMES}


def register(ports: dict[str, Initiator]) -> None:
    for name, key in KEYS.items():
        ports[name].good(pr.pr_out(pr.REGISTER), pr.keys(0, key))


def test_every_command_says_what_it_needs(it: Rig) -> None:
    found: dict[str, Access] = {}
    for row in it.disk.table.all:
        action = f"/{row.service_action:x}" if row.service_action is not None else ""
        found[f"{row.opcode:02x}{action}"] = row.needs
    assert found == {code: needs for needs, codes in NEEDS.items() for code in codes.split()}


@pytest.mark.parametrize("kind", Type)
def test_who_may_do_what(it: Rig, ports: dict[str, Initiator], kind: Type) -> None:
    register(ports)
    ports["holder"].good(pr.pr_out(pr.RESERVE, kind), pr.keys(KEYS["holder"]))
    for name, port in ports.items():
        barred = name == "stranger" or (name == "registrant" and kind in HOLDER_ONLY)
        for cdb, data, conflicts in ASKING:
            result = port.execute(cdb, data)
            wanted = barred and FAMILY[kind] in conflicts
            assert (result.status is Status.RESERVATION_CONFLICT) == wanted, (name, cdb.hex())
            assert result.sense is None, (name, cdb.hex())
            if cdb[0] == 0x1B:
                port.execute(bytes.fromhex("1b0000000100"))


def test_registrations_alone_bar_nobody(ports: dict[str, Initiator]) -> None:
    register(ports)
    for port in ports.values():
        for cdb, data, _ in ASKING[:-1]:
            assert port.execute(cdb, data).sense is None, cdb.hex()


def test_reserve_bars_all_others_from_nearly_everything(ports: dict[str, Initiator]) -> None:
    ports["holder"].good(pr.RESERVE6)
    for cdb, data, _ in ASKING[:-1]:
        assert ports["holder"].execute(cdb, data).sense is None
        status = ports["stranger"].execute(cdb, data).status
        harmless = cdb[0] in FREE_OF_SPC2 or cdb in (
            bytes.fromhex("1b0000000100"),
            bytes.fromhex("1e0000000000"),
        )
        assert (status is Status.RESERVATION_CONFLICT) != harmless, cdb.hex()


def test_what_is_not_there_is_no_conflict(ports: dict[str, Initiator]) -> None:
    ports["holder"].good(pr.RESERVE6)
    assert ports["stranger"].sense(b"\xff" + bytes(15)) == s.INVALID_OPCODE


def test_a_conflict_comes_before_what_is_wrong_with_the_command(
    ports: dict[str, Initiator],
) -> None:
    ports["holder"].good(pr.RESERVE6)
    beyond = ports["stranger"].execute(read10(1 << 30, 1))
    assert beyond.status is Status.RESERVATION_CONFLICT


def test_a_unit_attention_comes_before_a_conflict(it: Rig, ports: dict[str, Initiator]) -> None:
    ports["holder"].good(pr.RESERVE6)
    it.unit.attend_all(s.UA_CAPACITY_CHANGED)
    assert ports["stranger"].sense(read10(0, 1)) == s.UA_CAPACITY_CHANGED
    assert ports["stranger"].execute(read10(0, 1)).status is Status.RESERVATION_CONFLICT


def test_who_comes_later_is_barred_as_well(it: Rig, ports: dict[str, Initiator]) -> None:
    ports["holder"].good(pr.RESERVE6)
    late = it.initiator("late", settled=False)
    assert late.sense(write10(0, 1), BLOCK) == s.UA_POWER_ON
    assert late.execute(write10(0, 1), BLOCK).status is Status.RESERVATION_CONFLICT
