"""Reservations through `lunmesh serve`: what outlives it, and what does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from target.scsi.reservations.state import Type
from tests.support import reservations as pr
from tests.support.cdb import write10
from tests.support.initiator import Initiator
from tests.support.iscsi_task import Task
from tests.support.lunmesh_server import LunmeshServer, ServerError

GOOD, CHECK_CONDITION, CONFLICT = 0x00, 0x02, 0x18
KEY = 0xABC
BLOCK = bytes(512)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LunmeshServer]:
    with LunmeshServer(tmp_path / "server", ["disk0=16M", "disk1=16M"]) as server:
        yield server


def command(session: Initiator, cdb: bytes, data_out: bytes = b"", lun: int = 0) -> Task:
    """Run one; unit attentions are taken on the way."""
    while True:
        task = session.command(cdb, data_out=data_out, read_length=0 if data_out else 4096, lun=lun)
        if task.status != CHECK_CONDITION:
            return task


def login(server: LunmeshServer, name: str, isid: bytes = b"\x80\0\0\0\0\1") -> Initiator:
    session = Initiator(
        server.host,
        server.port,
        target=server.iqn,
        name=f"iqn.2026-11.io.lunmesh.test:{name}",
        isid=isid,
    )
    session.login()
    return session


def reserve(session: Initiator, flags: int, lun: int) -> None:
    for action, kind, data in (
        (pr.REGISTER, 0, pr.keys(0, KEY, flags)),
        (pr.RESERVE, Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, pr.keys(KEY)),
    ):
        assert command(session, pr.pr_out(action, kind), data, lun).status == GOOD


def test_a_crash_takes_what_was_not_to_last(server: LunmeshServer) -> None:
    with login(server, "one") as one:
        reserve(one, pr.APTPL, 0)
        reserve(one, 0, 1)
    server.kill()
    server.start()
    with login(server, "one") as one, login(server, "two") as two:
        kept = command(one, pr.pr_in(pr.READ_RESERVATION)).data_in
        assert kept == pr.reservation_data(0, KEY, Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY)
        gone = command(one, pr.pr_in(pr.READ_KEYS), lun=1).data_in
        assert gone == pr.read_keys_data(0)
        for lun, status in ((0, CONFLICT), (1, GOOD)):
            assert command(two, write10(0, 1), BLOCK, lun).status == status
            assert command(one, write10(0, 1), BLOCK, lun).status == GOOD
        assert command(one, pr.pr_out(pr.CLEAR), pr.keys(KEY)).status == GOOD
    server.kill()
    server.start()
    with login(server, "two") as two:
        assert command(two, pr.pr_in(pr.READ_KEYS)).data_in == pr.read_keys_data(0)
        assert command(two, write10(0, 1), BLOCK).status == GOOD


def test_a_file_that_cannot_be_read_keeps_the_node_from_starting(server: LunmeshServer) -> None:
    with login(server, "one") as one:
        reserve(one, pr.APTPL, 0)
    server.kill()
    (file,) = (server.data_dir / "reservations").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ServerError, match=rf"{file.name} cannot be read"):
        server.start()
