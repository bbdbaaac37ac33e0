"""What the log is told of commands that fail, and of a session's last commands."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from target.iscsi.flight import COMMANDS_KEPT, DUMPS_MAX, ERRORS_MAX, ERRORS_SECONDS
from target.scsi.lun import LunAddress
from tests.support import cdb
from tests.support.abort_states import release
from tests.support.iscsi_pdu import TaskFunction
from tests.support.stores import HeldStore
from tests.support.wire import Wire, wire
from tests.support.wire_initiator import WireInitiator, rejected
from workers.fault_store import Faults, FaultStore
from workers.memory_store import MemoryStore

SIZE = 1 << 20


def told(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    """The fields of each such line above debug."""
    return [
        getattr(record, "fields", {})
        for record in caplog.records
        if record.getMessage() == event and record.levelno > logging.DEBUG
    ]


def read(session: WireInitiator, lba: int) -> int:
    return session.exchange(session.scsi(cdb.read10(lba, 1), read=True, edtl=512))[-1].status


def broken() -> FaultStore:
    """A store that fails whatever it is asked."""
    return FaultStore(MemoryStore(SIZE), Faults(error=1.0), lambda seconds, call: call())


def test_a_command_that_failed_is_told_with_all_that_came_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with wire(stores=[MemoryStore(SIZE), broken()]) as w:
        session = w.login(name="iqn.x:one")
        for lba in range(40):
            session.exchange(session.scsi(cdb.read10(lba, 1), read=True, edtl=512))
        w.clock.now += 1
        session.exchange(session.scsi(cdb.read10(7, 1), lun=1, read=True, edtl=512))
        (line,) = told(caplog, "command failed")
        assert line["initiator"] == "iqn.x:one"
        assert line["request"].startswith("READ(10) lun=1 ")
        assert "lba=7 " in line["request"]
        assert "status=CHECK_CONDITION" in line["request"]
        assert "sense=MEDIUM_ERROR" in line["request"]
        (dump,) = told(caplog, "last commands of a session")
        assert (dump["reason"], dump["count"]) == ("MEDIUM ERROR", COMMANDS_KEPT)
        flight = told(caplog, "flight")
        assert len(flight) == COMMANDS_KEPT
        lbas = [line["request"].split("lba=")[1].split()[0] for line in flight]
        assert lbas == [*map(str, range(9, 40)), "7"]
        assert [line["ago_ms"] for line in flight] == [1000.0] * 31 + [0.0]


def test_what_initiators_get_wrong_is_no_error_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    with wire() as w:
        session = w.login(settled=False)  # a unit attention
        for _ in range(2):
            session.exchange(session.scsi(cdb.read10(1 << 30, 1), read=True, edtl=512))
        assert told(caplog, "command failed") == []
        assert w.bus.units[LunAddress("", 0)].stats.failures.total() == 2


def test_errors_are_bounded_and_what_is_left_out_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with wire(stores=[broken()]) as w:
        session = w.login()
        for _ in range(ERRORS_MAX + 5):
            assert read(session, 0) == 2
        assert len(told(caplog, "command failed")) == ERRORS_MAX
        assert len(told(caplog, "last commands of a session")) == DUMPS_MAX
        w.clock.now += ERRORS_SECONDS
        read(session, 0)
        assert told(caplog, "command failed")[-1]["unsaid"] == 5


def held(w: Wire) -> WireInitiator:
    """A session with a read that the store does not answer."""
    session = w.login()
    session.exchange(session.scsi(cdb.read10(3, 1), read=True, edtl=512))
    return session


def test_an_initiator_that_gives_up_is_told_of_with_what_it_waits_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with wire(stores=[HeldStore(MemoryStore(SIZE))]) as w:
        session = held(w)
        w.clock.now += 30
        session.exchange(session.tmf(TaskFunction.LOGICAL_UNIT_RESET))
        (dump,) = told(caplog, "last commands of a session")
        assert dump["reason"] == "LOGICAL UNIT RESET"
        line = told(caplog, "flight")[-1]
        assert line["ago_ms"] == 30000.0
        assert " running " in line["request"]
        release(w)
        assert w.bus.units[LunAddress("", 0)].stats.aborted == 1


def test_a_reset_with_nothing_to_reset_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    with wire() as w:
        session = w.login()
        session.exchange(session.tmf(TaskFunction.LOGICAL_UNIT_RESET))
        assert told(caplog, "last commands of a session") == []


@pytest.mark.parametrize(("reason", "dumps"), [("closed by the initiator", 0), ("reset", 1)])
def test_a_connection_that_breaks_is_told_of(
    reason: str, dumps: int, caplog: pytest.LogCaptureFixture
) -> None:
    with wire() as w:
        session = w.login()
        read(session, 0)
        session.socket.drop(reason)
        assert len(told(caplog, "last commands of a session")) == dumps


def test_times_are_from_arrival_to_answer() -> None:
    with wire(stores=[HeldStore(MemoryStore(SIZE))]) as w:
        held(w)
        w.clock.now += 0.003
        release(w)
        w.settle()
        row = w.bus.units[LunAddress("", 0)].stats.rows[0]
        assert row[8] == 1  # over 2 ms, up to 5 ms
        assert sum(row[:20]) == 1
        assert row[21] == pytest.approx(3_000_000, abs=1000)
        assert row[20] == 512


def test_rejects_are_told_and_bounded(caplog: pytest.LogCaptureFixture) -> None:
    with wire() as w:
        session = w.login(name="iqn.x:one")
        for _ in range(ERRORS_MAX + 5):
            reject(session)
        lines = told(caplog, "PDU rejected")
        assert len(lines) == ERRORS_MAX
        assert lines[0]["initiator"] == "iqn.x:one"
        assert lines[0]["reason"] == "COMMAND_NOT_SUPPORTED"
        assert lines[0]["pdu"].startswith("1c")
        w.clock.now += ERRORS_SECONDS
        reject(session)
        assert told(caplog, "PDU rejected")[-1]["unsaid"] == 5


def reject(session: WireInitiator) -> None:
    pdu = session.ping()
    pdu.bhs[0] = 0x1C
    rejected(session.one(pdu), pdu)
