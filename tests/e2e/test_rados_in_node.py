"""`lunmesh serve --store rados:…`: the node is the client of a real Ceph, and is fenced as one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
from pathlib import Path

import pytest

from tests.support import cdb
from tests.support.ceph_cluster import CephCluster
from tests.support.initiator import Initiator
from tests.support.iscsi_socket import Disconnected
from tests.support.iscsi_task import Task
from tests.support.lunmesh_server import LunmeshServer, ServerError
from tests.support.scrape import scrape
from tests.support.until import until
from tests.support.verified_writes import VerifiedWrites
from tests.support.volume_command import VolumeCommand

pytestmark = [pytest.mark.ceph, pytest.mark.timeout(240)]
MIB = 1 << 20
CHUNKS = 8
VOLUME = f"disk0={CHUNKS}M,chunk=1M"
BLOCK = 512
SHUTTING_OUT = "shutting out the last life"
LONG_SECONDS = 60.0
GOOD, CHECK_CONDITION = 0x00, 0x02
MEDIUM_ERROR = 0x3
TEST_UNIT_READY = bytes(6)


@pytest.fixture
def store(ceph: CephCluster) -> list[str]:
    """Arguments for a server with a pool of its own."""
    pool = f"rados:{ceph.create_pool()}@{ceph.conf}"
    return ["--store", pool, "--shutdown-timeout", "1"]


def instances(server: LunmeshServer) -> dict[str, str]:
    """By pool, who the node says it is."""
    catalog = json.loads((server.data_dir / "catalog.json").read_text())
    found: dict[str, str] = catalog.get("pools", {})
    return found


def running(server: LunmeshServer) -> float:
    """Commands to the first disk that have not ended."""
    return scrape(server.admin).get("scsi_tasks", lun="0", state="running")


def blocklist(ceph: CephCluster) -> str:
    """Whom the cluster has shut out (this release ends its JSON with a second document)."""
    listed: str = ceph.admin("osd", "blocklist", "ls", "--format", "json", decode=False)
    return listed


def start_write(session: Initiator, lba: int, letter: bytes, lun: int = 0) -> Task:
    """One block of a letter; whoever wants the answer waits for it."""
    cdb = struct.pack(">BBIBHB", 0x2A, 0, lba, 0, 1, 0)
    return session.start(cdb, data_out=letter * BLOCK, lun=lun)


def write(session: Initiator, lba: int, letter: bytes, lun: int = 0) -> None:
    """The same, answered."""
    task = start_write(session, lba, letter, lun)
    session.wait(task)
    if task.status == CHECK_CONDITION:  # UNIT ATTENTION: it has just been switched on
        task = start_write(session, lba, letter, lun)
        session.wait(task)
    assert task.status == GOOD, task


def read(session: Initiator, lba: int, lun: int = 0) -> bytes:
    """The letters of one block."""
    for _ in range(2):
        cdb = struct.pack(">BBIBHB", 0x28, 0, lba, 0, 1, 0)
        task = session.command(cdb, read_length=BLOCK, lun=lun)
        if task.status == GOOD:
            break
    return bytes(set(task.data_in))


def test_the_next_life_shuts_out_one_that_was_killed_and_none_that_ended_well(
    ceph: CephCluster, store: list[str], tmp_path: Path
) -> None:
    with LunmeshServer(tmp_path / "server", [VOLUME], arguments=store) as server:
        ((pool, first),) = instances(server).items()
        with VerifiedWrites(
            server.host, server.port, server.iqn, chunks=CHUNKS, chunk_bytes=MIB
        ) as client:
            client.rounds(2)
            server.kill()
            server.start()
            client.rounds(2)
            second = instances(server)[pool]
            assert second != first
            assert blocklist(ceph).count(f'"{first}"') == 1
            server.restart()
            client.rounds(2)
        assert f'"{second}"' not in blocklist(ceph)
        assert server.stderr().count(SHUTTING_OUT) == 1
        assert server.stop() == 0
        assert instances(server) == {}


def test_a_node_that_wakes_after_another_took_its_data_writes_nothing_and_ends(
    store: list[str], tmp_path: Path
) -> None:
    mine = LunmeshServer(tmp_path / "mine", [VOLUME], arguments=store)
    other = LunmeshServer(tmp_path / "other", [VOLUME], arguments=store)
    with mine, Initiator(mine.host, mine.port, target=mine.iqn, timeout=LONG_SECONDS) as session:
        session.login()
        write(session, 0, b"O")
        os.kill(mine.pid, signal.SIGSTOP)
        late = start_write(
            session, 0, b"L"
        )  # it is with the stopped process, and will be looked at
        shutil.copytree(mine.data_dir, other.data_dir)
        with other, Initiator(other.host, other.port, target=other.iqn) as successor:
            successor.login()
            assert SHUTTING_OUT in other.stderr()
            write(successor, 0, b"N")
            os.kill(mine.pid, signal.SIGCONT)
            assert mine.wait() == 1
            assert "Ceph has shut this node out" in mine.stderr().splitlines()[-1]
            with pytest.raises(Disconnected):  # no error: it goes to the next life
                session.wait(late)
            assert read(successor, 0) == b"N"
            assert other.stop() == 0


def test_volumes_come_grow_and_go_with_their_objects(
    ceph: CephCluster, store: list[str], tmp_path: Path
) -> None:
    pool = store[1].removeprefix("rados:").partition("@")[0]

    def chunks() -> int:
        return sum(name.count(".") == 2 for name in ceph.rados("--pool", pool, "ls").split())

    with LunmeshServer(tmp_path / "server", [VOLUME], arguments=store) as server:
        volume = VolumeCommand(server)
        made = volume.json("create", "db", "2M", "--chunk", "1M")
        assert made["pool"] == f"rados:{pool}"
        assert made["path"] is None
        lun = made["lun"]
        with Initiator(server.host, server.port, target=server.iqn) as session:
            session.login()
            write(session, 0, b"x", lun)
        volume.good("resize", "db", "4M")
        server.restart()
        assert volume.json("show", "db")["size_bytes"] == 4 * MIB
        with Initiator(server.host, server.port, target=server.iqn) as session:
            session.login()
            assert read(session, 0, lun) == b"x"
            write(session, 4 * MIB // BLOCK - 1, b"y", lun)
        assert chunks() == 2
        volume.good("delete", "db", "--yes", "--force")
        until(lambda: chunks() == 0, "the objects go")
        assert "only volumes on workers can move" in volume.refused(
            "migrate", "disk0", "--worker", "127.0.0.1:1"
        )
    without = LunmeshServer(tmp_path / "server", [VOLUME])
    with pytest.raises(ServerError, match="is kept in a pool of Ceph's"):
        without.start()


def test_a_node_ends_in_time_while_ceph_does_not_answer(
    ceph: CephCluster, store: list[str], tmp_path: Path
) -> None:
    with LunmeshServer(tmp_path / "server", [VOLUME], arguments=store) as server:
        with Initiator(server.host, server.port, target=server.iqn) as session:
            session.login()
            write(session, 0, b"a")
            os.kill(ceph.osd_pid, signal.SIGSTOP)
            try:
                start_write(session, 0, b"b")
                start_write(session, 1, b"c")
                until(lambda: running(server) == 2, "the node has read both")
                assert server.stop() == 0
                assert len(instances(server)) == 1, "what was given up may land yet"
            finally:
                os.kill(ceph.osd_pid, signal.SIGCONT)
        server.start()
        assert server.stderr().count(SHUTTING_OUT) == 1


def flush(session: Initiator) -> Task:
    """SYNCHRONIZE CACHE(10) of the whole disk."""
    return session.command(struct.pack(">BBIBHB", 0x35, 0, 0, 0, 0, 0))


def sync(session: Initiator) -> None:
    """The same, done."""
    assert flush(session).status == GOOD


def with_cache(store: list[str]) -> list[str]:
    return [f"{it}?cache=4M" if it.startswith("rados:") else it for it in store]


def test_behind_a_cache_what_was_flushed_survives_a_crash_and_all_of_it_a_stop(
    store: list[str], tmp_path: Path
) -> None:
    letters = {lba: bytes([65 + lba % 26]) for lba in range(0, CHUNKS * MIB // BLOCK, 97)}
    with LunmeshServer(tmp_path / "server", [VOLUME], arguments=with_cache(store)) as server:
        with Initiator(server.host, server.port, target=server.iqn) as session:
            session.login()
            write(session, 0, b"0")
            sync(session)  # from now on writes are answered from memory
            for lba, letter in letters.items():
                write(session, lba, letter)
            assert [read(session, lba) for lba in letters] == list(letters.values())
            sync(session)
            write(session, 1, b"u")
        server.kill()
        server.start()
        with Initiator(server.host, server.port, target=server.iqn) as session:
            session.login()
            assert [read(session, lba) for lba in letters] == list(letters.values())
            sync(session)
            for lba in letters:
                write(session, lba, b"z")
        assert server.stop() == 0
        server.start()
        with Initiator(server.host, server.port, target=server.iqn) as session:
            session.login()
            assert {read(session, lba) for lba in letters} == {b"z"}


def test_a_node_that_is_shut_out_says_what_it_had_not_flushed(
    store: list[str], tmp_path: Path
) -> None:
    mine = LunmeshServer(tmp_path / "mine", [VOLUME], arguments=with_cache(store))
    other = LunmeshServer(tmp_path / "other", [VOLUME], arguments=with_cache(store))
    with mine, Initiator(mine.host, mine.port, target=mine.iqn, timeout=LONG_SECONDS) as session:
        session.login()
        write(session, 0, b"O")
        sync(session)
        write(session, 0, b"L")  # answered, and kept
        os.kill(mine.pid, signal.SIGSTOP)
        shutil.copytree(mine.data_dir, other.data_dir)
        with other, Initiator(other.host, other.port, target=other.iqn) as successor:
            successor.login()
            write(successor, 1, b"N")
            os.kill(mine.pid, signal.SIGCONT)
            assert mine.wait() == 1
            assert "answered and not flushed are lost" in mine.stderr()
            assert read(successor, 0) == b"O", "what was flushed"
            assert read(successor, 1) == b"N"
            assert other.stop() == 0


def test_after_answered_writes_are_lost_no_flush_succeeds(
    ceph: CephCluster, store: list[str], tmp_path: Path
) -> None:
    patient = [*with_cache(store)[:-1], "30"]  # for as long it waits for its initiators to leave
    with LunmeshServer(tmp_path / "server", [VOLUME], arguments=patient) as server:
        with Initiator(server.host, server.port, target=server.iqn) as session:
            session.login()
            write(session, 0, b"O")
            sync(session)
            ceph.admin("osd", "blocklist", "add", *instances(server).values(), decode=False)
            write(session, 0, b"L")  # answered, and kept
            assert flush(session).status == CHECK_CONDITION
            for _ in range(2):
                lost = flush(session)
                assert (lost.status, lost.sense_key) == (CHECK_CONDITION, MEDIUM_ERROR), lost
        assert server.wait() == 1
        assert "answered and not flushed are lost" in server.stderr()


def test_behind_a_cache_what_was_read_is_in_memory_and_the_disk_grows(
    store: list[str], tmp_path: Path
) -> None:
    with LunmeshServer(tmp_path / "server", ["disk0=1M"], arguments=with_cache(store)) as server:
        volume = VolumeCommand(server)
        volume.json("create", "db", "2M")
        with Initiator(server.host, server.port, target=server.iqn) as session:
            session.login()

            def found() -> float:
                return scrape(server.admin).get("volume_cache_hits_total", lun="1", volume="db")

            until(lambda: session.command(TEST_UNIT_READY, lun=1).status == GOOD, "it is there")
            page = cdb.read10(8, 8)
            data = session.command(page, lun=1, read_length=8 * BLOCK).data_in
            before = found()
            until(
                lambda: (
                    session.command(page, lun=1, read_length=8 * BLOCK).data_in == data
                    and found() > before
                ),
                "a read is answered from memory",
            )
            write(session, 9, b"w", 1)
            assert read(session, 9, 1) == b"w"
            volume.good("resize", "db", "4M")
            last = 4 * MIB // BLOCK - 1
            until(lambda: session.command(TEST_UNIT_READY, lun=1).status == GOOD, "it is told")
            write(session, last, b"e", 1)
            assert read(session, last, 1) == b"e"
