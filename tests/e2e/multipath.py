"""Several ways to one disk in the guest, joined by multipathd as deploy/multipath configures it.

    with Multipath(vm).joined([3260, 3261], iqn) as disk:
        disk.wait_for_paths(2)

The guest runs udev and multipathd from then on, as Debian's packages have them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from tests.e2e.initiator import LinuxInitiator
from tests.e2e.vm import VirtualMachine

# Quicker than deploy/multipath/README.md recommends, to see more in less time.
SESSION_SETTINGS = {
    "node.conn[0].timeo.noop_out_interval": "2",
    "node.conn[0].timeo.noop_out_timeout": "3",
}
PATH_TIMEOUT_S = 90  # a lost path is noticed by a ping, given up, and after its return logged in
PROGRESS_IOS = 200
FIO = (
    "fio --name=verify --ioengine=libaio --direct=1 --rw=randrw --iodepth=16 --size=8M "
    "--bssplit=4k/70:16k/20:128k/10 --verify=crc32c-intel --verify_fatal=1"
)


class MultipathDisk:
    """One map of the guest."""

    def __init__(self, vm: VirtualMachine, name: str) -> None:
        self._vm = vm
        self._name = name
        self.device = f"/dev/mapper/{name}"

    def wait_for_paths(self, active: int, failed: int = 0) -> None:
        """Until the kernel has exactly these; it says when one changes."""
        self._vm.sh(
            f"name={self._name}; count() {{ dmsetup status $name | grep -oE ' [0-9]+:[0-9]+ '$1 "
            f"| wc -l; }}\n"
            f"reached() {{ [ $(count A) = {active} ] && [ $(count F) = {failed} ]; }}\n"
            # The number of the last event is taken before the look, so that none falls between.
            "while seen=$(dmsetup info -c --noheadings -o events $name); ! reached; do "
            "dmsetup wait $name $seen; done",
            timeout_s=PATH_TIMEOUT_S,
        )

    def wait_for_progress(self) -> None:
        """Until a good many reads and writes more have been done."""
        self._vm.sh(
            f"stat=/sys/block/$(basename $(readlink -f {self.device}))/stat; "
            "done_ios() { awk '{ print $1 + $5 }' $stat; }\n"
            f"goal=$(($(done_ios) + {PROGRESS_IOS})); "
            "until [ $(done_ios) -ge $goal ]; do usleep 50000; done",
            timeout_s=PATH_TIMEOUT_S,
        )


class Multipath:
    """The guest's multipathd."""

    def __init__(self, vm: VirtualMachine) -> None:
        self._vm = vm
        vm.sh(
            "modprobe dm_multipath; modprobe dm_service_time; "
            "pidof systemd-udevd || systemd-udevd --daemon; "
            # It answers once it has read its configuration.
            "pidof multipathd || multipathd; "
            "until multipathd show daemon | grep -q idle; do usleep 50000; done"
        )

    @contextlib.contextmanager
    def joined(
        self, ports: Sequence[int], iqn: str, settings: Mapping[str, str] | None = None
    ) -> Iterator[MultipathDisk]:
        """Logged in to LUN 0 through each port of the host's loopback address inside; afterwards
        the guest knows none of it.  ``settings`` are more of the record: CHAP, say.
        """
        initiators = [LinuxInitiator(self._vm, f"127.0.0.1:{port}", iqn) for port in ports]
        try:
            disks = []
            for initiator in initiators:
                initiator.add()
                initiator.configure({**SESSION_SETTINGS, **(settings or {})})
                disks += initiator.login()
            wwids = {self._wwid(disk) for disk in disks}
            assert len(wwids) == 1, f"the paths lead to different disks: {wwids}"
            disk = MultipathDisk(self._vm, wwids.pop())
            self._vm.sh(f"until [ -e {disk.device} ]; do usleep 50000; done")
            disk.wait_for_paths(len(ports))
            yield disk
        finally:
            # First the map: it would queue for ever what its users have not written yet.
            self._vm.run("multipathd disablequeueing maps; multipath -F")
            for initiator in initiators[:1]:
                initiator.forget()

    def _wwid(self, disk: str) -> str:
        return self._vm.sh(f"/lib/udev/scsi_id -g -u -d {disk}").strip()


@contextlib.contextmanager
def verified_writes(vm: VirtualMachine, disk: MultipathDisk, file: str = "") -> Iterator[None]:
    """fio writes and verifies, round after round, while the body runs; then all of it once more.

    In ``file``, or in the disk itself.  An error of one read or write ends fio with an error, and
    so the test.
    """
    fio = f"{FIO} --filename={file or disk.device}"
    vm.start(
        f"round=0; until [ -e /run/stop ]; do round=$((round + 1)); "
        f"{fio} --randseed=$round; done; rm /run/stop; "
        f"{fio} --randseed=$round --verify_only",
        timeout_s=280,
    )
    try:
        disk.wait_for_progress()
        yield
    finally:
        vm.sh("touch /run/stop")
        vm.finish()
