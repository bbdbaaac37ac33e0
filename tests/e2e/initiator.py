"""The guest's iSCSI initiator (open-iscsi and the kernel's iscsi_tcp) in terms of a test."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from tests.e2e.channel import Result
from tests.e2e.vm import VirtualMachine

DISK_TIMEOUT_S = 60
_ATTACHED = re.compile(r";sd \d+:\d+:\d+:(\d+): \[(sd[a-z]+)\] Attached SCSI disk")
_login_numbers = count(1)


class LinuxInitiator:
    """One target as the guest knows it.

    With ``name`` the guest calls itself so, and is another initiator than without.
    """

    def __init__(self, vm: VirtualMachine, portal: str, iqn: str, name: str = "") -> None:
        self.vm = vm
        self.portal = portal
        self.iqn = iqn
        self._as = ""
        if name:
            interface = name.rpartition(":")[2]
            self._as = f"-I {interface} "
            known = f"iscsiadm -m iface -I {interface}"
            vm.sh(
                f"{known} --op new && {known} --op update -n iface.initiatorname -v {name}"
                f" && {known} --op update -n iface.transport_name -v tcp"
            )

    def discover(self) -> list[str]:
        """SendTargets; lines "ADDRESS:PORT,GROUP IQN". The guest keeps a record of each."""
        found = self.vm.sh(f"iscsiadm -m discovery -t sendtargets -p {self.portal}")
        return found.splitlines()

    def add(self) -> None:
        """Make the record without asking the target."""
        self._node("--op new")

    def configure(self, settings: dict[str, str]) -> None:
        """Change the record's parameters, which the next login offers."""
        for name, value in settings.items():
            self._node(f"--op update -n '{name}' -v '{value}'")

    def try_login(self) -> Result:
        return self.vm.run(f"iscsiadm -m node -T {self.iqn} -p {self.portal} --login")

    def login(self, disks: int = 1) -> list[str]:
        """Log in and wait for that many disks; their device files in the order of their LUNs."""
        mark = f"lunmesh-e2e: login {next(_login_numbers)}"
        self.vm.sh(f"echo '<5>{mark}' > /dev/kmsg")
        self._node("--login")
        # Disks are probed in the background, and the kernel log is where it says that it is done.
        # Reading /dev/kmsg waits for more; awk stops at the last disk.
        log = self.vm.sh(
            f"awk '/{mark}/ {{ on = 1 }} on && /Attached SCSI disk/ {{ print; n++ }} "
            f"n == {disks} {{ exit }}' /dev/kmsg",
            timeout_s=DISK_TIMEOUT_S,
        )
        by_lun = sorted((int(lun), f"/dev/{name}") for lun, name in _ATTACHED.findall(log))
        return [device for _, device in by_lun]

    def logout(self) -> None:
        self._node("--logout")

    def rescan(self, lun: int | None = None) -> str:
        """Look for new sizes and new disks; the device file of the disk ``lun``, if one is asked.

        Disks are probed in the background: this waits for that one.
        """
        self._node("--rescan")
        if lun is None:
            return ""
        name = self.vm.sh(
            f"until ls /sys/class/scsi_device/*:0:0:{lun}/device/block 2> /dev/null; "
            "do usleep 20000; done",
            timeout_s=DISK_TIMEOUT_S,
        )
        return f"/dev/{name.strip()}"

    @contextmanager
    def session(self, disks: int = 1) -> Iterator[list[str]]:
        """Logged in inside; if the test fails there, `forget` cleans up."""
        yield self.login(disks)
        self.logout()

    def forget(self) -> None:
        """Whatever state a test left behind: unmount, log out, drop the record."""
        record = f"iscsiadm -m node -T {self.iqn}"
        self.vm.run(
            "for point in /mnt/*; do umount -l $point || true; done; "
            f"{record} --logout || true; {record} --op delete || true"
        )
        if self._as:
            self.vm.run(f"iscsiadm -m iface {self._as}--op delete")

    def negotiated(self) -> dict[str, str]:
        """What the running session agreed on."""
        details = self.vm.sh("iscsiadm -m session -P 2")
        _, _, parameters = details.partition("Negotiated iSCSI params:")
        return dict(re.findall(r"^\s*(\w+): (\S+)$", parameters, re.MULTILINE))

    def _node(self, operation: str) -> str:
        return self.vm.sh(f"iscsiadm -m node -T {self.iqn} -p {self.portal} {self._as}{operation}")
