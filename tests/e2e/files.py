"""File systems and files in the guest, and their checksums."""

from collections.abc import Sequence

from tests.e2e.vm import VirtualMachine

_SMALL_FILES = 80


def mount(vm: VirtualMachine, disks: Sequence[str]) -> list[str]:
    """Mount each disk; the folders."""
    points = [f"/mnt/{disk.rpartition('/')[2]}" for disk in disks]
    for disk, point in zip(disks, points, strict=True):
        vm.sh(f"mkdir -p {point} && mount {disk} {point}")
    return points


def unmount(vm: VirtualMachine, disks: Sequence[str]) -> None:
    vm.sh(f"umount {' '.join(disks)}")


def write_files(vm: VirtualMachine, point: str) -> None:
    """A large file and many small ones, with their checksums beside them."""
    vm.sh(
        f"cd {point}; dd if=/dev/urandom of=large bs=1M count=12; mkdir -p small; "
        f"for i in $(seq {_SMALL_FILES}); do "
        "dd if=/dev/urandom of=small/$i bs=$((i * 73)) count=1; done; "
        "find large small -type f | xargs sha256sum > SUMS; sync"
    )


def check_files(vm: VirtualMachine, point: str) -> None:
    """All that `write_files` wrote is there, and equal."""
    vm.sh(f"cd {point} && [ $(wc -l < SUMS) = {_SMALL_FILES + 1} ] && sha256sum -c SUMS")


def write_and_delete_big_file(vm: VirtualMachine, point: str, mib: int) -> None:
    """Leaves blocks behind that no file uses and that the target does not know to be free."""
    vm.sh(f"dd if=/dev/urandom of={point}/big bs=1M count={mib} conv=fsync; rm {point}/big; sync")
