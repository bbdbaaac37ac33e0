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
from tests.e2e.multipath import Multipath, MultipathDisk
from tests.e2e.vm import VirtualMachine
from tests.support.lunmesh_server import free_port
from tests.support.node_cluster import NodeCluster
from tests.support.relay import Relay

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

STOPPED_SECONDS = 20
FIO = (
    "fio --name=verify --ioengine=libaio --direct=1 --rw=randrw --iodepth=16 --size=8M "
    "--bssplit=4k/70:16k/20:128k/10 --verify=crc32c-intel --verify_fatal=1"
)


@contextlib.contextmanager
def verified_writes(vm: VirtualMachine, disk: MultipathDisk) -> Iterator[None]:
    """fio writes and verifies, round after round, while the body runs; then all of it once more.

    An error of one read or write ends fio with an error, and so the test.
    """
    vm.start(
        f"round=0; until [ -e /run/stop ]; do round=$((round + 1)); "
        f"{FIO} --filename={disk.device} --randseed=$round; done; rm /run/stop; "
        f"{FIO} --filename={disk.device} --randseed=$round --verify_only",
        timeout_s=280,
    )
    try:
        disk.wait_for_progress()
        yield
    finally:
        vm.sh("touch /run/stop")
        vm.finish()


KEY, RIVAL = 0xA, 0xB
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


@contextlib.contextmanager
def two_paths(vm: VirtualMachine, folder: Path) -> Iterator[tuple[str, str]]:
    """The same disk through either node, without multipathd: two I_T nexuses."""
    with NodeCluster(folder, ["disk0=16M"], workers=1) as cluster:
        initiators = [
            LinuxInitiator(vm, f"127.0.0.1:{node.port}", node.iqn) for node in cluster.nodes
        ]
        try:
            for initiator in initiators:
                initiator.add()
            (one,), (two,) = (initiator.login() for initiator in initiators)
            yield one, two
        finally:
            initiators[0].forget()


def sg(vm: VirtualMachine, command: str) -> str:
    """A command that must succeed, once unit attentions have been taken."""
    while (result := vm.run(command)).status == UNIT_ATTENTION:
        pass
    assert result.status == OK, f"{command}: {result}"
    return result.output


def writes(vm: VirtualMachine, disk: str) -> int:
    """How a write ends, once unit attentions have been taken."""
    while (result := vm.run(WRITE.format(disk))).status == UNIT_ATTENTION:
        pass
    return result.status


def test_reservations_of_every_type_between_two_nodes(vm: VirtualMachine, tmp_path: Path) -> None:
    """One reserves through one node; the other, through the other, is barred, and takes over."""
    with two_paths(vm, tmp_path) as (one, two):
        for number, name, holder_only in TYPES:
            sg(vm, f"sg_persist --out --register --param-sark={KEY:#x} {one}")
            sg(vm, f"sg_persist --out --reserve --param-rk={KEY:#x} --prout-type={number} {one}")
            assert name in sg(vm, f"sg_persist --in --read-reservation {two}")
            assert writes(vm, two) == CONFLICT, name
            assert writes(vm, one) == OK, name
            sg(vm, f"sg_persist --out --register --param-sark={RIVAL:#x} {two}")
            assert writes(vm, two) == (CONFLICT if holder_only else OK), name
            take = f"--param-rk={RIVAL:#x} --param-sark={KEY:#x} --prout-type={number}"
            sg(vm, f"sg_persist --out --preempt-abort {take} {two}")
            assert writes(vm, one) == CONFLICT, name
            assert writes(vm, two) == OK, name
            keys = sg(vm, f"sg_persist --in --read-keys {one}")
            assert "1 registered" in keys, keys
            sg(vm, f"sg_persist --out --clear --param-rk={RIVAL:#x} {two}")
            assert writes(vm, one) == OK, name


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
