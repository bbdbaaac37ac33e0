"""`lunmesh serve --processes 2`: two nodes behind one portal, one disk, whichever of them dies."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from target.rendezvous import process_of
from tests.support import cdb
from tests.support import reservations as pr
from tests.support.incrementers import BUSY, GOOD, TROUBLE, Incrementers, connect, until_good
from tests.support.initiator import Initiator
from tests.support.iscsi_socket import Disconnected
from tests.support.lunmesh_server import PROJECT_ROOT, LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.node_processes import alive, first_of_two_free, processes_of
from tests.support.redis_server import RedisServer
from tests.support.until import until
from tests.support.volume_command import VolumeCommand

WAIT_SECONDS = 60
CHECK_CONDITION, CONFLICT = 0x02, 0x18
PREFIX = "iqn.2026-11.io.lunmesh.test:"
BLOCKS = 8
DISK = "disk0=16M,chunk=1M"
OPTIONS = ("--lease", "2")
KEY = 0xA


def name_in(process: int, stem: str = "host") -> str:
    """A name, behind PREFIX, that is served by this one of two processes."""
    return next(n for k in range(99) if process_of(PREFIX + (n := f"{stem}{k}"), 2) == process)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """The flags of those that serve the disk together."""
    folder = tmp_path_factory.mktemp("shared")
    with RedisServer(folder / "redis") as redis, LunmeshWorker(folder / "worker") as worker:
        yield ("--redis", redis.url, "--worker", worker.address, "--processes", "2")


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory, shared: tuple[str, ...]
) -> Iterator[LunmeshServer]:
    server = LunmeshServer(
        tmp_path_factory.mktemp("node"), [DISK], arguments=[*shared, *OPTIONS, "--node-id", "n"]
    )
    server.admin_port = first_of_two_free()
    with server:
        yield server
        processes = processes_of(server)
    # The context has killed it, which its processes notice by themselves.
    until(lambda: not any(map(alive, processes)), "processes outlive their supervisor")


def is_over(session: Initiator) -> bool:
    """Whether the target has closed its connection."""
    try:
        session.nop()
    except (Disconnected, OSError):
        return True
    return False


def command(session: Initiator, what: bytes, data_out: bytes = b"", read_length: int = 0) -> int:
    """Its status; unit attentions are taken on the way, and BUSY is for trying again."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        task = session.command(what, data_out=data_out, read_length=read_length)
        if task.status not in (CHECK_CONDITION, BUSY):
            return task.status
        assert time.monotonic() < deadline, task


def read(session: Initiator, lba: int) -> bytes:
    assert command(session, cdb.TEST_UNIT_READY) == GOOD
    task = session.command(cdb.read10(lba, BLOCKS), read_length=BLOCKS * 512)
    assert task.status == GOOD
    return bytes(task.data_in)


def test_each_initiator_sees_one_portal_group(node: LunmeshServer) -> None:
    """What discovery says is what the login says, and no address is told twice."""
    tags = set()
    for process in (1, 2):
        name = PREFIX + name_in(process)
        with Initiator(node.host, node.port, name=name) as session:
            session.login(discovery=True)
            ((target, addresses),) = session.send_targets()
        (address,) = addresses
        portal, _, tag = address.rpartition(",")
        assert (target, portal) == (node.iqn, node.portal)
        for _ in range(2):
            with connect(node, name_in(process)) as session:
                assert session.answers["TargetPortalGroupTag"] == tag
        tags.add(tag)
    assert len(tags) == 2


def test_the_processes_are_nodes(node: LunmeshServer) -> None:
    listed = VolumeCommand(node, "node").json("list")
    assert sorted(each["id"] for each in listed) == ["n-1", "n-2"]
    assert {each["state"] for each in listed} == {"serving"}
    assert sum(line.startswith("lunmesh ready") for line in node.output) == 1
    assert all(name in node.stderr() for name in ("node=n-1", "node=n-2"))


def test_a_node_elsewhere_tells_each_initiator_the_tag_that_it_will_find(
    node: LunmeshServer, shared: tuple[str, ...], tmp_path: Path
) -> None:
    """And the processes tell of that node, with its one tag."""
    alone = (*shared[: shared.index("--processes")], *OPTIONS, "--node-id", "m")
    with LunmeshServer(tmp_path, [DISK], arguments=alone) as other:
        tags = set()
        for process in (1, 2):
            name = name_in(process)
            with connect(node, name) as session:
                found = session.answers["TargetPortalGroupTag"]
            with connect(other, name) as session:
                own = session.answers["TargetPortalGroupTag"]
            for asked in (node, other):
                until_told(asked, name, {f"{node.portal},{found}", f"{other.portal},{own}"})
            tags.add(found)
        assert len(tags) == 2
        assert other.stop() == 0


def until_told(node: LunmeshServer, name: str, expected: set[str]) -> None:
    """Until discovery there names these, each once: nodes hear of others with their leases."""

    def told() -> bool:
        with Initiator(node.host, node.port, name=PREFIX + name) as session:
            session.login(discovery=True)
            ((_, addresses),) = session.send_targets()
        return sorted(addresses) == sorted(expected)

    until(told, f"{expected} is not what is told")


def test_what_one_writes_the_other_reads(node: LunmeshServer) -> None:
    with connect(node, name_in(1)) as one, connect(node, name_in(2)) as two:
        for number, (writer, reader) in enumerate([(one, two), (two, one)]):
            data = os.urandom(BLOCKS * 512)
            assert command(writer, cdb.write10(number, BLOCKS), data) == GOOD
            assert read(reader, number) == data


def test_compare_and_write_counts_through_both(node: LunmeshServer) -> None:
    names = [f"{PREFIX}counter{number}" for number in range(3)]
    assert {process_of(name, 2) for name in names} == {1, 2}
    with Incrementers([node] * 3) as counting:
        counting.all_go_on()
    counting.check()


def test_a_reservation_keeps_the_other_out(node: LunmeshServer) -> None:
    with connect(node, name_in(1)) as one, connect(node, name_in(2)) as two:
        parameters = pr.keys(0, KEY)
        register = pr.pr_out(pr.REGISTER_AND_IGNORE, 0, len(parameters))
        assert command(one, register, parameters) == GOOD
        reserve = pr.pr_out(pr.RESERVE, 1, len(parameters))  # write exclusive
        assert command(one, reserve, pr.keys(KEY)) == GOOD
        assert command(two, cdb.write10(0, 1), bytes(512)) == CONFLICT
        assert command(one, cdb.write10(0, 1), bytes(512)) == GOOD
        assert command(one, pr.pr_out(pr.CLEAR, 0, len(parameters)), pr.keys(KEY)) == GOOD
        assert command(two, cdb.write10(0, 1), bytes(512)) == GOOD


def test_a_login_ends_the_session_that_it_reinstates(node: LunmeshServer) -> None:
    with connect(node, name_in(2)) as old:
        again = Initiator(node.host, node.port, target=node.iqn, name=old.name, isid=old.isid)
        with again:
            again.login()
            until(lambda: is_over(old), "the old session goes on")
            assert command(again, cdb.TEST_UNIT_READY) == GOOD


def test_a_process_that_is_killed_comes_back_and_the_other_goes_on(node: LunmeshServer) -> None:
    lba = 4096
    kept = os.urandom(BLOCKS * 512)
    (victim,) = (pid for pid, number in processes_of(node).items() if number == 1)
    ends, written = threading.Event(), [0]

    def go_on(session: Initiator) -> None:
        while not ends.is_set():
            assert command(session, cdb.write10(lba + 64, 1), bytes(512)) == GOOD
            written[0] += 1

    with connect(node, name_in(1)) as mine, connect(node, name_in(2)) as others:
        assert command(mine, cdb.write10(lba, BLOCKS), kept) == GOOD
        thread = threading.Thread(target=go_on, args=(others,))
        thread.start()
        try:
            os.kill(victim, signal.SIGKILL)
            until(lambda: is_over(mine), "a session without its process")
            back = connect_again(node, name_in(1))
            with back:
                assert read(back, lba) == kept
                assert command(back, cdb.write10(lba, BLOCKS), bytes(BLOCKS * 512)) == GOOD
            before = written[0]
            until(lambda: written[0] > before or not thread.is_alive(), "nothing is written")
            assert thread.is_alive(), "the other initiator has lost its session"
        finally:
            ends.set()
            thread.join()
        assert read(others, lba) == bytes(BLOCKS * 512)
    numbers = sorted(processes_of(node).values())
    assert numbers == [1, 2]
    assert victim not in processes_of(node)


def connect_again(node: LunmeshServer, name: str) -> Initiator:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        with contextlib.suppress(*TROUBLE):
            return connect(node, name)
        assert time.monotonic() < deadline


def test_asked_to_stop_nothing_is_left_and_it_starts_with_what_was(node: LunmeshServer) -> None:
    data = os.urandom(BLOCKS * 512)
    with connect(node, name_in(2)) as session:
        assert command(session, cdb.write10(0, BLOCKS), data) == GOOD
        assert session.logout() == 0
    processes = processes_of(node)
    assert node.stop() == 0
    assert not any(map(alive, processes))
    node.start()
    assert until_good(node, cdb.read10(0, BLOCKS), read_length=BLOCKS * 512) == data


def test_told_twice_all_end_at_once(node: LunmeshServer) -> None:
    """A process that does not even move does not keep the others."""
    processes = processes_of(node)
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    node.signal(signal.SIGTERM)
    until(lambda: "stopping signal=SIGTERM" in node.stderr().splitlines()[-1], "not heard")
    node.signal(signal.SIGTERM)
    assert node.wait() == 1
    until(lambda: not any(map(alive, processes)), "processes are left")
    node.start()


def test_what_a_killed_supervisor_leaves_is_waited_for(node: LunmeshServer) -> None:
    """Its processes end by themselves, and have the data directories until then."""
    (slow, *_) = processes_of(node)
    heard = len(node.stderr())
    os.kill(slow, signal.SIGSTOP)
    node.kill()

    def let_go() -> None:
        until(lambda: "waits for an earlier process" in node.stderr()[heard:], "it does not wait")
        os.kill(slow, signal.SIGCONT)

    with ThreadPoolExecutor(1) as thread:
        letting_go = thread.submit(let_go)
        try:
            node.start()
        finally:
            letting_go.result()
    until(lambda: not alive(slow), "who has let go of its data directory does not end")
    with connect(node, name_in(1)) as session:
        assert command(session, cdb.TEST_UNIT_READY) == GOOD


def test_one_that_cannot_start_ends_all(shared: tuple[str, ...], tmp_path: Path) -> None:
    """Its admin port is taken; it says so in one line, and its exit status is that of all."""
    port = first_of_two_free()
    with socket.create_server(("127.0.0.1", port + 1)):
        server = LunmeshServer(tmp_path, [DISK], arguments=[*shared, *OPTIONS])
        server.admin_port = port
        done = subprocess.run(
            server.command(),
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        f"lunmesh: admin 127.0.0.1:{port + 1}: address already in use" in done.stderr.splitlines()
    )
    assert "Traceback" not in done.stderr
