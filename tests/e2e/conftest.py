"""Fixtures of the tests with real initiators: targets and what backs them, a virtual machine."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.e2e import kernel_log
from tests.e2e.initiator import LinuxInitiator
from tests.e2e.packages import MissingTools
from tests.e2e.vm import VirtualMachine
from tests.support.backing import EMBEDDED, RADOS, backed
from tests.support.ceph_cluster import CephCluster
from tests.support.lunmesh_server import LunmeshServer


class ServerFactory(Protocol):
    """Starts a target with these volumes and further arguments of `lunmesh serve`."""

    def __call__(self, volumes: list[str], *arguments: str) -> LunmeshServer: ...


Connect = Callable[[LunmeshServer], LinuxInitiator]


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualMachine]:
    """A running guest, one for each test module."""
    try:
        machine = VirtualMachine(tmp_path_factory.mktemp("vm"))
    except MissingTools as exc:
        # A test that skips itself where a tool is missing is a test that nobody runs.
        if os.environ.get("LUNMESH_TEST_SKIP_MISSING") == "1":
            pytest.skip(str(exc))
        raise
    with machine:
        yield machine


@pytest.fixture
def backing(request: pytest.FixtureRequest) -> str:
    """Where disks are kept, of tests.support.backing; a test is parametrized with others."""
    kind: str = getattr(request, "param", EMBEDDED)
    if kind == RADOS:
        cluster: CephCluster = request.getfixturevalue("ceph")
        return f"{RADOS}{cluster.create_pool()}@{cluster.conf}"
    return kind


@pytest.fixture
def serve(tmp_path: Path, backing: str) -> Iterator[ServerFactory]:
    """Starts targets, which end with the test."""
    with contextlib.ExitStack() as stack:
        count = itertools.count()

        def start(volumes: list[str], *arguments: str) -> LunmeshServer:
            folder = tmp_path / f"server{next(count)}"
            return stack.enter_context(backed(backing, folder, volumes, arguments))

        yield start


@pytest.fixture
def connect(vm: VirtualMachine, serve: ServerFactory) -> Iterator[Connect]:
    """Points the guest's initiator at a target; afterwards its kernel must have no complaint."""
    initiators: list[LinuxInitiator] = []

    def point(server: LunmeshServer) -> LinuxInitiator:
        initiators.append(LinuxInitiator(vm, server.portal, server.iqn))
        return initiators[-1]

    kernel_log.begin(vm)
    yield point
    found = kernel_log.complaints(vm)
    for initiator in initiators:
        initiator.forget()
    assert not found, "the guest's kernel complains:\n" + "\n".join(found)
