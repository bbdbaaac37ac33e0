"""Builds the guest's whole system as one initramfs: busybox, the host's tools, kernel modules.

The archive is not compressed: unpacking it would cost the emulated CPU more than QEMU saves by
loading less.
"""

import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.e2e.cpio import CpioWriter
from tests.e2e.packages import (
    GUEST_PACKAGES,
    PROJECT_ROOT,
    MissingTools,
    fetch_multipath_tools,
    find_tool,
)

# Loaded at boot, in this order, with what they depend on. ext4 is part of Debian's kernel.
BOOT_MODULES = (
    *("virtio_pci", "virtio_net", "virtio_console", "af_packet"),
    *("crc32c_intel", "crct10dif_pclmul"),
    *("iscsi_tcp", "sd_mod", "sg", "xfs"),
)
# Present, loaded on demand.
MORE_MODULES = ("dm_multipath", "dm_round_robin", "dm_service_time")

INITIATOR_NAME = "iqn.2026-11.io.lunmesh.test:guest"
# The receive buffer: Linux counts what arrives while a socket is busy against it until the socket
# is idle, and a fast stream to a slow CPU can keep it busy for the whole of a read. When the count
# reaches the buffer, the window closes, and as iscsi_tcp has by then taken all the data, nothing
# opens it again for five seconds (a ping, or the sender's probe). Seen with tgtd as well. So the
# buffer holds everything that can be on its way at once.
_ISCSID_CONF = """\
iscsid.startup = /usr/sbin/iscsid
node.conn[0].tcp.window_size = 67108864
"""
_FOLDERS = (
    *("dev", "etc", "etc/iscsi", "mnt", "proc", "root", "run", "sys", "tmp", "var", "var/lib"),
    *("usr", "usr/bin", "usr/sbin", "usr/bbin", "usr/lib", "usr/lib64"),
    *("usr/lib/multipath", "usr/lib/udev", "usr/lib/udev/rules.d"),
)
# multipathd hears of disks from udev. These rules give it their WWIDs, and dm devices their names.
_UDEV_RULES = (
    *("55-dm.rules", "60-persistent-storage.rules", "95-dm-notify.rules"),
    *("56-dm-mpath.rules", "60-multipath.rules"),
)
_UDEV_FOLDER = Path("/usr/lib/udev")
_MULTIPATH_PLUGINS = ("libchecktur.so", "libprioconst.so", "libprioalua.so")
MULTIPATH_CONF = PROJECT_ROOT / "deploy" / "multipath" / "multipath.conf"
_INIT_SCRIPT = Path(__file__).with_name("guest_init.sh")
_LDD_LINE = re.compile(r"(?:^\s*|=> )(/\S+) \(0x", re.MULTILINE)
_BUILTIN_ONLY = Path("modules.builtin")


def build_initramfs(destination: Path, modules_dir: Path) -> None:
    """Write the guest's initramfs to `destination`; `modules_dir` is /lib/modules/VERSION."""
    tools = [path for tools in GUEST_PACKAGES.values() for path in map(_tool, tools)]
    multipath = fetch_multipath_tools()
    tools += [multipath / "sbin" / name for name in ("multipath", "multipathd")]
    partial = destination.with_suffix(".partial")
    with partial.open("wb") as out, CpioWriter(out) as archive:
        for folder in _FOLDERS:
            archive.folder(folder)
        for name in ("bin", "sbin", "lib", "lib64"):
            archive.symlink(name, f"usr/{name}")
        # The kernel opens the console before anything has been mounted on /dev.
        archive.character_device("dev/console", 5, 1)
        _add_programs(archive, tools, multipath)
        _add_multipath(archive, multipath)
        _add_modules(archive, modules_dir)
        _add_texts(archive)
    partial.rename(destination)


def _tool(name: str) -> Path:
    path = find_tool(name)
    if path is None:
        raise MissingTools(f"{name} is not installed")
    return path


def _add_programs(archive: CpioWriter, tools: Iterable[Path], unpacked: Path) -> None:
    """The tools and their libraries; those of a package that is not installed from `unpacked`."""
    libraries: dict[Path, Path] = {}  # by where they go
    for tool in tools:
        folder = "usr/sbin" if tool.parent.name == "sbin" else "usr/bin"
        archive.file(f"{folder}/{tool.name}", tool.read_bytes(), executable=True)
        libraries |= {_in_usr(path, unpacked): path for path in _libraries(tool, unpacked)}
    folders = {parent for path in libraries for parent in path.parents}
    known = {Path(), *map(Path, _FOLDERS)}
    for parent in sorted(folders - known):
        archive.folder(str(parent))
    for place, library in sorted(libraries.items()):
        archive.file(str(place), library.read_bytes(), executable=True)
    # The real tools come first in the guest's PATH, busybox fills the gaps. Its shell does not do:
    # it runs its own applet whatever PATH says, and its blkdiscard, say, knows fewer options.
    busybox = _tool("busybox")
    for applet in _run([str(busybox), "--list"]).split():
        archive.symlink(f"usr/bbin/{applet}", f"/usr/bin/{busybox.name}")
    archive.symlink("usr/bin/sh", "dash")
    archive.symlink("usr/sbin/modprobe", "/usr/bbin/modprobe")  # the path the kernel itself calls


def _libraries(program: Path, unpacked: Path) -> set[Path]:
    done = subprocess.run(
        ["ldd", program],
        env={**os.environ, "LD_LIBRARY_PATH": str(unpacked / "lib")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return set()  # a static program
    if "not found" in done.stdout:
        raise MissingTools(f"{program.name} lacks libraries: {done.stdout}")
    return {Path(found) for found in _LDD_LINE.findall(done.stdout)}


def _in_usr(path: Path, unpacked: Path) -> Path:
    """Where a library goes in the guest, whose /lib is /usr/lib on every host."""
    inside = path.relative_to(unpacked if path.is_relative_to(unpacked) else "/")
    return inside if inside.parts[0] == "usr" else Path("usr") / inside


def _add_multipath(archive: CpioWriter, unpacked: Path) -> None:
    """multipathd's plugins, its configuration, and udev, which a test starts when it needs them."""
    for name in _MULTIPATH_PLUGINS:
        plugin = unpacked / "lib" / "multipath" / name
        archive.file(f"usr/lib/multipath/{name}", plugin.read_bytes(), executable=True)
    for name in _UDEV_RULES:
        candidates = [folder / "rules.d" / name for folder in (_UDEV_FOLDER, unpacked / "lib/udev")]
        rules = next((path for path in candidates if path.exists()), None)
        if rules is None:
            raise MissingTools(f"no package has the udev rules {name}")
        archive.file(f"usr/lib/udev/rules.d/{name}", rules.read_bytes())
    archive.file("usr/lib/udev/scsi_id", (_UDEV_FOLDER / "scsi_id").read_bytes(), executable=True)
    archive.symlink("usr/sbin/systemd-udevd", "/usr/bin/udevadm")
    archive.file("etc/multipath.conf", MULTIPATH_CONF.read_bytes())


def _add_modules(archive: CpioWriter, modules_dir: Path) -> None:
    base = Path("usr/lib/modules") / modules_dir.name
    files = _module_files(modules_dir, (*BOOT_MODULES, *MORE_MODULES))
    folders = {Path("usr/lib/modules"), base}
    folders |= {base / parent for file in files for parent in file.parents}
    for folder in sorted(folders):
        archive.folder(str(folder))
    for file in sorted(files):
        archive.file(str(base / file), (modules_dir / file).read_bytes())
    for index in sorted(modules_dir.glob("modules.*")):
        archive.file(str(base / index.name), index.read_bytes())


def _module_files(modules_dir: Path, names: Iterable[str]) -> set[Path]:
    """The files of these modules and of all that they depend on, relative to `modules_dir`."""
    files: dict[str, list[str]] = {}
    for line in (modules_dir / "modules.dep").read_text().splitlines():
        file, _, needs = line.partition(":")
        files[_module_name(file)] = [file, *needs.split()]
    builtin = set(map(_module_name, (modules_dir / _BUILTIN_ONLY).read_text().split()))
    wanted = [name for name in names if name not in builtin]
    if unknown := [name for name in wanted if name not in files]:
        raise MissingTools(f"the kernel package has no module {', '.join(unknown)}")
    return {Path(file) for name in wanted for file in files[name]}


def _module_name(file: str) -> str:
    return Path(file).name.partition(".")[0].replace("-", "_")


def _add_texts(archive: CpioWriter) -> None:
    archive.file("init", _INIT_SCRIPT.read_bytes(), executable=True)
    archive.file("etc/modules", "".join(f"{name}\n" for name in BOOT_MODULES).encode())
    archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    archive.file("etc/group", b"root:x:0:\n")
    archive.file("etc/mtab", b"")
    archive.file("etc/iscsi/iscsid.conf", _ISCSID_CONF.encode())
    archive.file("etc/iscsi/initiatorname.iscsi", f"InitiatorName={INITIATOR_NAME}\n".encode())


def _run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
