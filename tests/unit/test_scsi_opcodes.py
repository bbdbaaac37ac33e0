"""REPORT SUPPORTED OPERATION CODES, REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS, LOG SENSE."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from target.scsi.command import Command
from target.scsi.sense import INVALID_OPCODE, SenseKey, Status
from tests.support.scsi_disk import Initiator, Rig, invalid_cdb, rig

RCTD = 0x80
NO_TIMEOUTS = bytes.fromhex("000a0000") + bytes(8)


@pytest.fixture
def it() -> Iterator[Rig]:
    with rig() as made:
        yield made


@pytest.fixture
def one(it: Rig) -> Initiator:
    return it.initiator()


def report(options: int, opcode: int = 0, action: int = 0, length: int = 65536) -> bytes:
    return struct.pack(">BBBBHIxx", 0xA3, 0x0C, options, opcode, action, length)


def rows(it: Rig) -> list[Command]:
    return it.disk.table.all


def test_all_commands(it: Rig, one: Initiator) -> None:
    data = one.good(report(0))
    assert int.from_bytes(data[:4]) == len(data) - 4
    told = list(struct.iter_unpack(">BBHBBH", data[4:]))
    assert told == [
        (c.opcode, 0, c.service_action or 0, 0, int(c.service_action is not None), len(c.usage))
        for c in rows(it)
    ]


def test_all_commands_with_timeouts(it: Rig, one: Initiator) -> None:
    data = one.good(report(RCTD))
    assert int.from_bytes(data[:4]) == len(data) - 4 == 20 * len(rows(it))
    for at in range(4, len(data), 20):
        assert data[at + 5] & 0x02
        assert data[at + 8 : at + 20] == NO_TIMEOUTS


def test_every_command_by_its_name(it: Rig, one: Initiator) -> None:
    for command in rows(it):
        has_action = command.service_action is not None
        for option in (2 if has_action else 1, 3):
            data = one.good(report(option, command.opcode, command.service_action or 0))
            assert data == struct.pack(">xBH", 3, len(command.usage)) + command.usage
            timed = one.good(report(RCTD | option, command.opcode, command.service_action or 0))
            assert timed == b"\0\x83" + data[2:] + NO_TIMEOUTS
        wrong = 1 if has_action else 2
        assert one.sense(report(wrong, command.opcode)) == invalid_cdb(2, 2)


@pytest.mark.parametrize(
    ("option", "opcode", "action"),
    [(1, 0xFF, 0), (2, 0xFF, 0), (3, 0xFF, 0), (2, 0x9E, 0x1F), (3, 0x9E, 0x1F), (3, 0x12, 1)],
)
def test_commands_that_are_not_there(one: Initiator, option: int, opcode: int, action: int) -> None:
    assert one.good(report(option, opcode, action)) == bytes((0, 1, 0, 0))
    assert one.good(report(RCTD | option, opcode, action)) == bytes((0, 1, 0, 0))


@pytest.mark.parametrize("option", [4, 5, 6, 7])
def test_reserved_reporting_options(one: Initiator, option: int) -> None:
    assert one.sense(report(option, 0x12)) == invalid_cdb(2, 2)


def test_the_allocation_length_cuts(one: Initiator) -> None:
    whole = one.good(report(0))
    for length in (0, 3, 4, 11, 12):
        assert one.good(report(0, length=length)) == whole[:length]


def test_usage_data_names_the_opcode_and_the_service_action(it: Rig) -> None:
    sizes = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}
    for command in rows(it):
        assert len(command.usage) == sizes[command.opcode >> 5], command.name
        if command.service_action is not None:
            assert command.usage[1] & 0x1F == command.service_action, command.name
        assert command.usage[-1] == 0x04, f"{command.name}: NACA is looked at, nothing else"


def test_every_command_refuses_naca(it: Rig, one: Initiator) -> None:
    """All other bits that are evaluated are zero: what fails first must be NACA or that."""
    for command in rows(it):
        cdb = bytearray(len(command.usage))
        cdb[0] = command.opcode
        cdb[1] = command.service_action or 0
        if command.name == "REPORT LUNS":
            cdb[9] = 16
        cdb[-1] = 0x04
        assert one.sense(bytes(cdb)) == invalid_cdb(len(cdb) - 1, 2), command.name


def test_opcodes_that_are_not_there(it: Rig, one: Initiator) -> None:
    known = {command.opcode for command in rows(it)}
    for opcode in set(range(256)) - known:
        assert one.sense(bytes((opcode,)) + bytes(15)) == INVALID_OPCODE


def test_a_service_action_that_is_not_there(one: Initiator) -> None:
    assert one.sense(bytes((0xA3, 0x1F)) + bytes(10)) == invalid_cdb(1, 4)
    assert one.sense(bytes((0x9E, 0x1F)) + bytes(14)) == invalid_cdb(1, 4)


def test_any_cdb_of_zeros_or_ones_gets_an_answer(it: Rig, one: Initiator) -> None:
    for command in rows(it):
        for fill in (0x00, 0xFF, 0xFB):
            cdb = bytearray([fill] * len(command.usage))
            cdb[0] = command.opcode
            if command.service_action is not None:
                cdb[1] = cdb[1] & 0xE0 | command.service_action
            result = one.execute(bytes(cdb), bytes(512))
            if result.sense is not None:
                assert result.sense.key is not SenseKey.HARDWARE_ERROR, command.name
            it.unit.reset(lambda sure: None)
            one.settle()


# --- task management ------------------------------------------------------------------------------


def test_task_management_functions(one: Initiator) -> None:
    cdb = struct.pack(">BBBxxxIxx", 0xA3, 0x0D, 0, 64)
    assert one.good(cdb) == bytes.fromhex("da000000")
    extended = struct.pack(">BBBxxxIxx", 0xA3, 0x0D, 0x80, 64)
    assert one.good(extended) == bytes.fromhex("da00000c") + bytes(12)
    assert one.good(cdb[:9] + b"\x01\0\0") == bytes.fromhex("da")


# --- LOG SENSE ------------------------------------------------------------------------------------


def log_sense(page: int, subpage: int = 0, pointer: int = 0, *, flags: int = 0) -> bytes:
    return struct.pack(">BBBBxHHx", 0x4D, flags, page, subpage, pointer, 4096)


@pytest.mark.parametrize(
    ("page", "subpage", "data"),
    [
        (0x00, 0x00, "00 00 0003 00 0d 2f"),
        (0x00, 0xFF, "40 ff 000c 0000 00ff 0d00 0dff 2f00 2fff"),
        (0x0D, 0x00, "8d 00 000c 0000 03 02 00ff 0001 03 02 00ff"),
        (0x0D, 0xFF, "4d ff 0004 0d00 0dff"),
        (0x2F, 0x00, "af 00 0008 0000 03 04 0000ff00"),
    ],
)
def test_log_pages(one: Initiator, page: int, subpage: int, data: str) -> None:
    for control in (0x00, 0x40, 0x80, 0xC0):
        assert one.good(log_sense(control | page, subpage)) == bytes.fromhex(data)


def test_the_parameter_pointer(one: Initiator) -> None:
    assert one.good(log_sense(0x0D, pointer=1))[4:] == bytes.fromhex("0001 03 02 00ff")
    assert one.sense(log_sense(0x0D, pointer=2)) == invalid_cdb(5)
    assert one.sense(log_sense(0x00, pointer=1)) == invalid_cdb(5)
    assert one.sense(log_sense(0x0D, 0xFF, pointer=1)) == invalid_cdb(5)


def test_log_pages_that_are_not_there(one: Initiator) -> None:
    assert one.sense(log_sense(0x02)) == invalid_cdb(2, 5)
    assert one.sense(log_sense(0x3F, 0xFF)) == invalid_cdb(2, 5)
    assert one.sense(log_sense(0x0D, 1)) == invalid_cdb(3)
    assert one.sense(log_sense(0x0D, flags=1)) == invalid_cdb(1, 0)


def test_log_sense_of_a_stopped_unit(one: Initiator) -> None:
    one.good(bytes.fromhex("1b0000000000"))
    assert one.execute(log_sense(0)).status is Status.GOOD
