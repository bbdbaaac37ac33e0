"""Linux joins several ways to one disk with dm-multipath and multipathd, and ways come and go."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import kernel_log
from tests.e2e.conftest import ServerFactory
from tests.e2e.initiator import LinuxInitiator
from tests.e2e.multipath import Multipath, verified_writes
from tests.e2e.vm import VirtualMachine
from tests.support.lunmesh_server import free_port
from tests.support.node_cluster import NodeCluster
from tests.support.relay import Relay

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

STOPPED_SECONDS = 20
KEY, RIVAL = 0xA, 0xB
OTHER = "iqn.2026-11.io.lunmesh.test:other"
# Of persistent reservations: number, name, and whether only the holder writes.
TYPES = [
    (1, "Write Exclusive", True),
    (3, "Exclusive Access", True),
    (5, "Write Exclusive, registrants only", False),
    (6, "Exclusive Access, registrants only", False),
    (7, "Write Exclusive, all registrants", False),
    (8, "Exclusive Access, all registrants", False),
]
OK, UNIT_ATTENTION, CONFLICT = 0, 6, 24  # exit statuses of sg3-utils
WRITE = "sg_raw --send=512 --infile=/dev/zero {} 2a 00 00 00 00 00 00 00 01 00"
READ = "sg_raw --request=512 --outfile=/dev/null {} 28 00 00 00 00 00 00 00 01 00"


@contextlib.contextmanager
def two_paths(vm: VirtualMachine, folder: Path, other: str = "") -> Iterator[tuple[str, str]]:
    """The same disk through either node, without multipathd: two I_T nexuses.

    ``other``: the name of an initiator of its own for the second one.
    """
    with NodeCluster(folder, ["disk0=16M"], workers=1) as cluster:
        initiators = [
            LinuxInitiator(vm, f"127.0.0.1:{node.port}", node.iqn, name)
            for node, name in zip(cluster.nodes, ("", other), strict=True)
        ]
        try:
            for initiator in initiators:
                initiator.add()
            (one,), (two,) = (initiator.login() for initiator in initiators)
            yield one, two
        finally:
            for initiator in initiators:
                initiator.forget()


def status(vm: VirtualMachine, command: str) -> int:
    """How it ends, once unit attentions have been taken."""
    while (result := vm.run(command)).status == UNIT_ATTENTION:
        pass
    return result.status


def sg(vm: VirtualMachine, command: str) -> str:
    """A command that must succeed, once unit attentions have been taken."""
    while (result := vm.run(command)).status == UNIT_ATTENTION:
        pass
    assert result.status == OK, f"{command}: {result}"
    return result.output


def writes(vm: VirtualMachine, disk: str) -> int:
    return status(vm, WRITE.format(disk))


def reads(vm: VirtualMachine, disk: str) -> int:
    return status(vm, READ.format(disk))


def test_reservations_of_every_type_between_two_nodes(vm: VirtualMachine, tmp_path: Path) -> None:
    """One initiator reserves through one node; another one, through the other node, is barred, and
    takes over.
    """
    with two_paths(vm, tmp_path, OTHER) as (one, two):
        for number, name, holder_only in TYPES:
            reading = OK if name.startswith("Write") else CONFLICT
            sg(vm, f"sg_persist --out --register --param-sark={KEY:#x} {one}")
            sg(vm, f"sg_persist --out --reserve --param-rk={KEY:#x} --prout-type={number} {one}")
            assert name in sg(vm, f"sg_persist --in --read-reservation {two}")
            assert (reads(vm, two), writes(vm, two)) == (reading, CONFLICT), name
            assert (reads(vm, one), writes(vm, one)) == (OK, OK), name
            sg(vm, f"sg_persist --out --register --param-sark={RIVAL:#x} {two}")
            member = (reading, CONFLICT) if holder_only else (OK, OK)
            assert (reads(vm, two), writes(vm, two)) == member, name
            take = f"--param-rk={RIVAL:#x} --param-sark={KEY:#x} --prout-type={number}"
            if "all registrants" in name:
                take = take.replace(f"--param-sark={KEY:#x}", "--param-sark=0")
            sg(vm, f"sg_persist --out --preempt-abort {take} {two}")
            assert (reads(vm, one), writes(vm, one)) == (reading, CONFLICT), name
            assert writes(vm, two) == OK, name
            keys = sg(vm, f"sg_persist --in --read-keys {one}")
            assert "1 registered" in keys, keys
            sg(vm, f"sg_persist --out --release --param-rk={RIVAL:#x} --prout-type={number} {two}")
            assert writes(vm, one) == OK, name
            sg(vm, f"sg_persist --out --clear --param-rk={RIVAL:#x} {two}")
        capable = sg(vm, f"sg_persist --in --report-capabilities {one}")
        assert (
            capable.partition("\n")[2]
            == (sg(vm, f"sg_persist --in --report-capabilities {two}").partition("\n")[2])
        )
        for each in ("SIP_C", "ATP_C", "PTPL_C"):
            assert re.search(rf"\({each}\): 1", capable), capable
        specify_and_move(vm, one, two)


def specify_and_move(vm: VirtualMachine, one: str, two: str) -> None:
    """Who reserves registers the other initiator's port with its own, and gives it the reservation:
    it is known through both nodes who that is.
    """
    sg(vm, f"sg_persist --out --register --param-sark={RIVAL:#x} {two}")
    found = re.search(rf"{OTHER},i,0x\w{{12}}", sg(vm, f"sg_persist --in --read-full-status {one}"))
    assert found is not None
    port = found[0]
    sg(vm, f"sg_persist --out --register --param-rk={RIVAL:#x} --param-sark=0 {two}")
    key = f"--param-rk={KEY:#x}"
    there = "--relative-target-port=2"
    sg(
        vm,
        f"sg_persist --out --register --param-sark={KEY:#x} --param-alltgpt"
        f" --transport-id={port} {one}",
    )
    sg(vm, f"sg_persist --out --reserve {key} --prout-type=3 {one}")
    assert reads(vm, two) == CONFLICT
    for disk in (one, two):
        full = sg(vm, f"sg_persist --in --read-full-status {disk}")
        assert full.count(f"Key={KEY:#x}") == 4, full
        assert port in full
    moved = f"--out --register-move {key} --param-sark={RIVAL:#x} --param-unreg {there}"
    sg(vm, f"sg_persist {moved} --transport-id={port} {one}")
    assert (reads(vm, one), reads(vm, two)) == (CONFLICT, OK)
    assert f"{RIVAL:#x}" in sg(vm, f"sg_persist --in --read-reservation {one}")
    sg(vm, f"sg_persist --out --clear --param-rk={RIVAL:#x} {two}")
    assert writes(vm, one) == OK


def test_port_groups_are_one_state_for_both_nodes(vm: VirtualMachine, tmp_path: Path) -> None:
    with two_paths(vm, tmp_path) as (one, two):
        sg(vm, f"sg_stpg --tp=2 --state=2 {one}")
        for disk in (one, two):
            said = sg(vm, f"sg_rtpg --decode {disk}")
            groups = re.findall(r"group id : (0x\w+).*?state : (0x\w+)", said, re.DOTALL)
            assert groups == [("0x1", "0x00"), ("0x2", "0x02")], said
        assert writes(vm, one) == OK
        assert writes(vm, two) not in (OK, CONFLICT), "its port is in standby"
        sg(vm, f"sg_stpg --tp=2 --state=0 {one}")
        assert writes(vm, two) == OK


@pytest.fixture
def multipath(vm: VirtualMachine) -> Iterator[Multipath]:
    """A running multipathd; afterwards the kernel must have no complaint."""
    running = Multipath(vm)
    kernel_log.begin(vm)
    yield running
    found = kernel_log.complaints(vm)
    assert not found, "the guest's kernel complains:\n" + "\n".join(found)


def test_two_portals_of_one_node_are_two_paths(
    vm: VirtualMachine, serve: ServerFactory, multipath: Multipath
) -> None:
    """A connection that breaks and is there again at once costs no path."""
    second = free_port()
    server = serve(["disk0=64M"], "--portal", f"127.0.0.1:{second}")
    with (
        Relay(server.host, server.port, keep=False) as relay,
        multipath.joined([relay.port, second], server.iqn) as disk,
        verified_writes(vm, disk),
        kernel_log.outage(vm),
    ):
        relay.cut()
        disk.wait_for_progress()
        disk.wait_for_paths(active=2)


def test_nodes_are_killed_stopped_and_restarted_one_after_the_other(
    vm: VirtualMachine, tmp_path: Path, multipath: Multipath
) -> None:
    """Two nodes, one disk: nobody who uses it may notice, and all that was written is there."""
    with (
        NodeCluster(tmp_path, ["disk0=64M"], arguments=["--lease", "3"]) as cluster,
        multipath.joined([node.port for node in cluster.nodes], cluster.nodes[0].iqn) as disk,
        verified_writes(vm, disk),
        kernel_log.path_outage(vm),
    ):
        one, other = cluster.nodes
        one.kill()
        disk.wait_for_paths(active=1, failed=1)
        disk.wait_for_progress()
        one.start()
        disk.wait_for_paths(active=2)

        # Longer than its lease: the other one shuts it out, and it has to notice when it goes on.
        os.kill(other.pid, signal.SIGSTOP)
        goes_on = time.monotonic() + STOPPED_SECONDS
        disk.wait_for_paths(active=1, failed=1)
        disk.wait_for_progress()
        time.sleep(max(0.0, goes_on - time.monotonic()))
        os.kill(other.pid, signal.SIGCONT)
        disk.wait_for_paths(active=2)

        for node in cluster.nodes:
            node.restart()
            disk.wait_for_progress()
            disk.wait_for_paths(active=2)
