"""What the VM tests take from Debian, and where they keep it.

Two kinds of things come from packages: tools that must be installed on the host (QEMU itself, and
the programs that are copied into the guest), and the kernel and multipath-tools, which are only
fetched and unpacked into a cache folder, so that the host's own boot files stay untouched.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]
CACHE_DIR = PROJECT_ROOT / "build" / "vm-cache"

# The cloud flavour has no drivers for real hardware: a third of the size, and quicker to boot.
# It lacks scsi_dh_alua; multipathd asks for the state of a path's target port group by itself.
KERNEL_METAPACKAGE = "linux-image-cloud-amd64"
MULTIPATH_PACKAGE = "multipath-tools"

# Debian package -> programs taken from it. The ones in GUEST_PACKAGES are copied into the guest.
HOST_ONLY_PACKAGES: dict[str, tuple[str, ...]] = {
    "qemu-system-x86": ("qemu-system-x86_64",),
    "kmod": ("depmod",),
}
GUEST_PACKAGES: dict[str, tuple[str, ...]] = {
    "busybox-static": ("busybox",),
    "dash": ("dash",),
    "open-iscsi": ("iscsid", "iscsiadm"),
    "sg3-utils": (
        *("sg_inq", "sg_vpd", "sg_readcap", "sg_modes", "sg_luns", "sg_opcodes", "sg_logs"),
        *("sg_turs", "sg_requests", "sg_raw", "sg_sync", "sg_verify", "sg_unmap", "sg_write_same"),
        *("sg_get_lba_status", "sg_compare_and_write", "sg_persist", "sg_reset"),
        *("sg_start", "sg_prevent", "sg_senddiag", "sg_rtpg", "sg_stpg"),
    ),
    "fio": ("fio",),
    "e2fsprogs": ("mkfs.ext4", "e2fsck", "resize2fs"),
    "xfsprogs": ("mkfs.xfs", "xfs_repair"),
    # Their libraries are those that multipath-tools needs, too.
    "udev": ("udevadm",),
    "dmsetup": ("dmsetup",),
    "util-linux": ("lsblk", "blkdiscard", "fstrim", "blockdev", "fallocate"),
}
SYSTEM_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
FETCH_TIMEOUT_S = 300


class MissingTools(Exception):
    """The host lacks programs that the VM tests need; the message names their packages."""


def host_packages() -> list[str]:
    """The Debian packages that must be installed before the VM tests can run."""
    return sorted({*HOST_ONLY_PACKAGES, *GUEST_PACKAGES})


def find_tool(name: str) -> Path | None:
    found = shutil.which(name, path=SYSTEM_PATH)
    return Path(found) if found else None


def require_tools() -> None:
    """Raise MissingTools unless every program that `host_packages` promises is there."""
    wanted = {**HOST_ONLY_PACKAGES, **GUEST_PACKAGES}
    missing = sorted(
        package for package, tools in wanted.items() if not all(find_tool(tool) for tool in tools)
    )
    if missing:
        raise MissingTools(
            f"the VM tests need the Debian packages: apt-get install {' '.join(missing)}"
        )


def fetch_kernel() -> tuple[Path, Path]:
    """The kernel image and its modules folder, from the cache or else from the Debian archive."""
    unpacked = CACHE_DIR / "kernel"
    if not unpacked.exists():
        _download(_kernel_package(), unpacked, _index_modules)
    (image,) = (unpacked / "boot").glob("vmlinuz-*")
    (modules,) = (unpacked / "lib" / "modules").iterdir()
    return image, modules


def fetch_multipath_tools() -> Path:
    """The folder that its package unpacks to, from the cache or else from the Debian archive."""
    unpacked = CACHE_DIR / MULTIPATH_PACKAGE
    if not unpacked.exists():
        _download(MULTIPATH_PACKAGE, unpacked)
    return unpacked


def _download(package: str, unpacked: Path, prepare: Callable[[Path], None] | None = None) -> None:
    CACHE_DIR.mkdir(parents=True, exist_ok=True)
    # Built aside and renamed, so that an interrupted download is never taken for a whole one.
    with tempfile.TemporaryDirectory(dir=CACHE_DIR) as scratch:
        _run(["apt-get", "download", package], cwd=Path(scratch))
        (archive,) = Path(scratch).glob("*.deb")
        tree = Path(scratch) / "tree"
        _run(["dpkg-deb", "-x", str(archive), str(tree)])
        if prepare is not None:
            prepare(tree)
        if not unpacked.exists():  # another test run may have been quicker
            tree.rename(unpacked)


def _index_modules(tree: Path) -> None:
    """The package leaves the module index to its post-install script, which is not run here."""
    (modules,) = (tree / "lib" / "modules").iterdir()
    _run([str(find_tool("depmod")), "-b", str(tree), modules.name])


def _kernel_package() -> str:
    """The metapackage's name never changes; the versioned package it depends on does."""
    for line in _run(["apt-cache", "depends", KERNEL_METAPACKAGE]).splitlines():
        relation, _, name = line.strip().partition(": ")
        if relation == "Depends" and name.startswith("linux-image-"):
            return name
    raise MissingTools(
        f"apt knows no kernel behind {KERNEL_METAPACKAGE}; run apt-get update with Debian's sources"
    )


def _run(command: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise MissingTools(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    return done.stdout
