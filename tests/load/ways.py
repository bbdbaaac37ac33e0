"""How fio reaches a disk: through QEMU's initiator, or the kernel's in a virtual machine."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from tests.bench.servers import Endpoint
from tests.e2e.channel import ChannelBroken
from tests.e2e.initiator import LinuxInitiator
from tests.e2e.vm import GuestCommandFailed, VirtualMachine, VmError
from tests.load.fio import GRACE_S, LoadFailed, arguments, run_here
from tests.load.jobs import COMMON, FOLDER, Section, common, copy_jobs
from tests.support.storage_daemon import StorageDaemon

NBD = "nbd"
KERNEL = "kernel"
TITLES = {
    NBD: "fio → NBD on a Unix socket → qemu-storage-daemon (libiscsi)",
    KERNEL: "fio → the Linux kernel's initiator, in a virtual machine without KVM",
}


class Way(Protocol):
    """To the disks of one server, by their size of blocks."""

    def run(self, section: Section, block_bytes: int, seconds: float) -> str:
        """What fio prints. LoadFailed when it cannot."""


class NbdWay:
    def __init__(self, folders: dict[int, Path]) -> None:
        self._folders = folders

    def run(self, section: Section, block_bytes: int, seconds: float) -> str:
        return run_here(self._folders[block_bytes], section.job, section.name, seconds)


@contextlib.contextmanager
def nbd_way(endpoint: Endpoint, folder: Path, seconds: float) -> Iterator[NbdWay]:
    """While the context lasts there is a storage daemon; ``folder`` is made, for job files."""
    names = {block: f"disk{block}" for block in endpoint.urls}
    with StorageDaemon({names[block]: url for block, url in endpoint.urls.items()}) as daemon:
        folder.mkdir()
        folders = {block: folder / name for block, name in names.items()}
        for block, jobs in folders.items():
            reach = ("ioengine=nbd", f"uri={daemon.uri(names[block])}")
            copy_jobs(jobs, common(reach, seconds))
        yield NbdWay(folders)


class KernelWay:
    def __init__(self, vm: VirtualMachine, devices: dict[int, str]) -> None:
        self._vm = vm
        self._devices = devices

    def run(self, section: Section, block_bytes: int, seconds: float) -> str:
        # As a user does: the job file as it is, and the disk on the command line.
        files = {
            COMMON: common(("ioengine=libaio",), seconds),
            f"{section.job}.fio": (FOLDER / f"{section.job}.fio").read_text(),
        }
        written = [f"printf %s {shlex.quote(text)} > {name}" for name, text in files.items()]
        fio = shlex.join(
            [*arguments(section.job, section.name), f"--filename={self._devices[block_bytes]}"]
        )
        script = "; ".join(["mkdir -p /run/fio; cd /run/fio", *written, f"{fio} --output=o; cat o"])
        try:
            return self._vm.sh(script, timeout_s=round(seconds) + GRACE_S)
        except (GuestCommandFailed, VmError, ChannelBroken) as exc:
            raise LoadFailed(f"{section.title} in the guest: {exc}") from exc


@contextlib.contextmanager
def kernel_way(endpoint: Endpoint, vm: VirtualMachine) -> Iterator[KernelWay]:
    """While the context lasts the guest is logged in."""
    url = urlsplit(next(iter(endpoint.urls.values())))
    initiator = LinuxInitiator(vm, url.netloc, url.path.split("/")[1])
    initiator.add()
    try:
        found = initiator.login(len(endpoint.urls))
        yield KernelWay(vm, dict(zip(endpoint.urls, found, strict=True)))
    finally:
        initiator.forget()
