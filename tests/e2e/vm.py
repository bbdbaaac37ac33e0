"""A Linux virtual machine whose shell the tests drive: QEMU without KVM, booted from memory.

The guest has two command channels (channel.py): one for what a test does step by step, one for
what is to run beside it. Its 127.0.0.1 is the host's (guest_init.sh says how), so it reaches
whatever listens on the host's loopback under the address that the host itself would use.
"""

import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.e2e.channel import GRACE_S, ChannelBroken, CommandChannel, Result
from tests.e2e.initramfs import build_initramfs
from tests.e2e.packages import MissingTools, fetch_kernel, find_tool, require_tools

BOOT_TIMEOUT_S = 180
COMMAND_TIMEOUT_S = 120
MEMORY = "768M"
# Not "quiet": the console is all there is to see of a guest that does not come up.
KERNEL_ARGUMENTS = "console=ttyS0 panic=-1 random.trust_cpu=on mitigations=off loglevel=5"


class VmError(Exception):
    """The virtual machine did not boot, died, or does not answer."""


class GuestCommandFailed(Exception):
    """A command that was to succeed in the guest ended with another status than 0."""


class VirtualMachine:
    """One running guest; a context manager that ends it."""

    def __init__(self, work_dir: Path) -> None:
        require_tools()
        kernel, modules = fetch_kernel()
        self._console = work_dir / "console.log"
        self._qemu_log = work_dir / "qemu.log"
        with tempfile.TemporaryDirectory(dir=work_dir) as scratch:
            initramfs = Path(scratch) / "initramfs"
            build_initramfs(initramfs, modules)
            self._front, self._back = CommandChannel(), CommandChannel()
            self._process = self._launch(kernel, initramfs)
            try:
                # The initramfs has been read by the time that the guest says anything.
                self._front.wait_until_ready(BOOT_TIMEOUT_S)
                self._back.wait_until_ready(BOOT_TIMEOUT_S)
            except ChannelBroken as exc:
                error = self._error(str(exc))
                self.close()
                raise error from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def run(self, script: str, *, timeout_s: int = COMMAND_TIMEOUT_S) -> Result:
        """Run a shell script in the guest, up to its first failing command (`sh -e`).

        After `timeout_s` it is killed there (status 137).
        """
        try:
            self._front.send(script, timeout_s)
            return self._front.receive()
        except ChannelBroken as exc:
            raise self._error(f"{exc}: {script}") from exc

    def sh(self, script: str, *, timeout_s: int = COMMAND_TIMEOUT_S) -> str:
        """Run a script that must succeed; its output."""
        return _succeeded(self.run(script, timeout_s=timeout_s), script)

    def start(self, script: str, *, timeout_s: int = COMMAND_TIMEOUT_S) -> None:
        """Start a script beside the ones that follow; there can be one at a time."""
        try:
            self._back.send(script, timeout_s)
        except ChannelBroken as exc:
            raise self._error(f"{exc}: {script}") from exc

    def finish(self) -> str:
        """Wait for the script that `start` started, which must succeed; its output."""
        try:
            return _succeeded(self._back.receive(), "the script in the background")
        except ChannelBroken as exc:
            raise self._error(str(exc)) from exc

    def close(self) -> None:
        """End the guest; it powers itself off when its ports close, and is killed if it cannot."""
        self._front.close()
        self._back.close()
        try:
            self._process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _launch(self, kernel: Path, initramfs: Path) -> subprocess.Popen[bytes]:
        qemu = find_tool("qemu-system-x86_64")
        if qemu is None:
            raise MissingTools("qemu-system-x86_64 is not installed")
        # One virtual CPU: emulated ones that wait for each other take several times the time, and
        # the target under test needs the host's CPUs too.
        command = [
            str(qemu),
            *("-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", MEMORY),
            *("-nodefaults", "-no-user-config", "-nographic", "-no-reboot"),
            *("-kernel", str(kernel), "-initrd", str(initramfs), "-append", KERNEL_ARGUMENTS),
            *("-serial", f"file:{self._console}"),
            *("-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile="),
            *("-device", "virtio-serial-pci"),
        ]
        descriptors = [channel.guest_end.fileno() for channel in (self._front, self._back)]
        for number, descriptor in enumerate(descriptors, start=1):
            command += ["-chardev", f"socket,id=port{number},fd={descriptor}"]
            command += ["-device", f"virtserialport,nr={number},chardev=port{number}"]
        with self._qemu_log.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=descriptors,
            )
        # Only QEMU may hold these: the host would not see the end of a guest that died.
        self._front.guest_end.close()
        self._back.guest_end.close()
        return process

    def _error(self, what: str) -> VmError:
        logs = [log for log in (self._qemu_log, self._console) if log.exists()]
        return VmError(
            "\n".join([what, *(log.read_text(errors="replace")[-3000:] for log in logs)])
        )


def _succeeded(result: Result, script: str) -> str:
    if result.status:
        raise GuestCommandFailed(f"status {result.status} from: {script}\n{result.output}")
    return result.output
