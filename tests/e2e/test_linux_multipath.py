"""Linux joins several ways to one disk with dm-multipath and multipathd, and ways come and go."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import kernel_log
from tests.e2e.conftest import ServerFactory
from tests.e2e.multipath import Multipath, MultipathDisk
from tests.e2e.vm import VirtualMachine
from tests.support.lunmesh_server import free_port
from tests.support.node_cluster import NodeCluster
from tests.support.relay import Relay

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

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
        disk.wait_for_paths(active=1, failed=1)
        disk.wait_for_progress()
        os.kill(other.pid, signal.SIGCONT)
        disk.wait_for_paths(active=2)

        for node in cluster.nodes:
            node.restart()
            disk.wait_for_progress()
            disk.wait_for_paths(active=2)
