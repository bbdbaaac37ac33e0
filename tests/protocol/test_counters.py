"""What is told of sessions, logins and management PDUs, against what was done."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from target.iscsi.chap import ChapPolicy, Secret
from target.telemetry.iscsi import iscsi_families, pool_families
from target.telemetry.scsi import UNITS_PER_PART, scsi_families
from tests.support import cdb
from tests.support.initiator import LoginRefused
from tests.support.iscsi_pdu import Opcode, Pdu
from tests.support.scrape import Samples
from tests.support.wire import Wire, wire


class _Of(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def told(w: Wire) -> Samples:
    families = [*iscsi_families(w.target, len(w.sockets)), *pool_families(w.pool)]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Of(families))
    return Samples(generate_latest(registry).decode())


def test_logins_and_sessions() -> None:
    chap = ChapPolicy({"alice": Secret(b"alice-knows-it")}, None)
    with wire(chap=chap) as w:
        good = w.initiator()
        good.login(chap=("alice", "alice-knows-it"))
        for _ in range(2):
            bad = w.initiator()
            with pytest.raises(LoginRefused):
                bad.login(chap=("alice", "not-what-she-knows"))
        found = told(w)
        assert found.get("iscsi_logins_total") == 1
        assert found.get("iscsi_logins_refused_total", status="authentication_failure") == 2
        assert found.get("iscsi_connections_accepted_total") == 3
        assert found.get("iscsi_sessions", kind="normal") == 1
        assert found.get("buffer_bytes", what="reserved") > 0
    assert told(w).get("iscsi_sessions", kind="normal") == 0


def test_functions_that_nobody_knows_are_one_label() -> None:
    """What an initiator makes up must not make labels."""
    with wire() as w:
        session = w.login()
        for function in (0, 77, 126, 3):
            session.exchange(session.tmf(function))
        found = told(w)
    refused = {"response": "function_not_supported"}
    assert found.get("iscsi_task_management_total", function="other", **refused) == 3
    assert found.get("iscsi_task_management_total", function="clear_aca", **refused) == 1


def test_rejects() -> None:
    with wire() as w:
        session = w.login()
        bhs = bytearray(48)
        bhs[0] = 0x1D | 0x40  # immediate, of an opcode that is nobody's
        (answer,) = session.exchange(Pdu(bhs))
        assert answer.opcode == Opcode.REJECT
        assert told(w).get("iscsi_rejects_total", reason="command_not_supported") == 1


def test_families_in_parts_have_every_unit_once() -> None:
    luns = 2 * UNITS_PER_PART + 1
    with wire(luns=luns) as w:
        session = w.login(settled=False)
        for lun in range(luns):
            session.exchange(session.scsi(cdb.TEST_UNIT_READY, lun=lun))
        families = [f for f in scsi_families(w.bus, 0.0) if f.name.endswith("command_seconds")]
        assert len(families) == 3
        counts = [s for f in families for s in f.samples if s.name.endswith("_count")]
        assert [s.labels["lun"] for s in counts] == [*map(str, range(luns))]
        assert all(s.value == 1 for s in counts)
