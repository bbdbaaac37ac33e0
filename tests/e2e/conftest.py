"""Fixtures of the tests that need a virtual machine."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.e2e import kernel_log
from tests.e2e.initiator import LinuxInitiator
from tests.e2e.packages import MissingTools
from tests.e2e.vm import VirtualMachine
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
def serve(tmp_path: Path) -> Iterator[ServerFactory]:
    """Starts targets, which end with the test."""
    servers: list[LunmeshServer] = []

    def start(volumes: list[str], *arguments: str) -> LunmeshServer:
        server = LunmeshServer(tmp_path / f"server{len(servers)}", volumes, arguments=arguments)
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.kill()


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
