"""The Linux kernel's initiator mounts the disks, and finds them again whatever happens to us.

Every test also fails if the guest's kernel complains about anything (the `connect` fixture).
"""

import signal

import pytest

from tests.e2e import kernel_log
from tests.e2e.conftest import Connect, ServerFactory
from tests.e2e.files import (
    check_files,
    mount,
    unmount,
    write_and_delete_big_file,
    write_files,
)
from tests.e2e.vm import VirtualMachine
from tests.support.backing import EMBEDDED, RADOS, WORKERS
from tests.support.volume_command import VolumeCommand

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

# mkfs.xfs makes nothing under 300 MiB. LUN 0 has blocks of 512 bytes, LUN 1 of 4096.
TWO_DISKS = ["disk0=384M", "disk1=384M,block=4096"]
CHECK = {"ext4": "e2fsck -fn", "xfs": "xfs_repair -n"}
BIG_FILE_MIB = 32
KILLED = 137  # the status of what took too long
FILES = 8  # written over and over while the target goes away


def test_discovery_names_the_portal_that_was_asked(serve: ServerFactory, connect: Connect) -> None:
    server = serve(["disk0=64M"])
    assert connect(server).discover() == [f"{server.portal},1 {server.iqn}"]


def test_discovery_through_another_address_leads_to_a_login(
    vm: VirtualMachine, serve: ServerFactory, connect: Connect
) -> None:
    """QEMU's gateway is another name of the host's loopback, as behind address translation."""
    server = serve(["disk0=64M"])
    gateway = f"10.0.2.2:{server.port}"
    found = vm.sh(f"iscsiadm -m discovery -t sendtargets -p {gateway}").split()
    assert server.iqn in found
    with connect(server).session(disks=1) as (disk,):
        assert vm.sh(f"blockdev --getsize64 {disk}").strip() == str(64 << 20)


@pytest.mark.parametrize(
    ("backing", "file_systems"),
    [
        (EMBEDDED, ("ext4", "xfs")),
        (EMBEDDED, ("xfs", "ext4")),
        (WORKERS, ("ext4", "xfs")),
    ],
    ids=["ext4-xfs", "xfs-ext4", "workers"],
    indirect=["backing"],
)
def test_files_survive_logout_and_a_clean_restart(
    vm: VirtualMachine, serve: ServerFactory, connect: Connect, file_systems: tuple[str, str]
) -> None:
    server = serve(TWO_DISKS)
    initiator = connect(server)
    initiator.discover()
    with initiator.session(disks=2) as disks:
        for disk, kind in zip(disks, file_systems, strict=True):
            vm.sh(f"mkfs.{kind} -q {disk}")
        for point in mount(vm, disks):
            write_files(vm, point)
            before = server.allocated_bytes()
            write_and_delete_big_file(vm, point, BIG_FILE_MIB)
            full = server.allocated_bytes()
            vm.sh(f"fstrim -v {point}")
            # Half, because file systems write elsewhere too, and trim only whole free extents.
            assert full - before > BIG_FILE_MIB << 19
            assert full - server.allocated_bytes() > BIG_FILE_MIB << 19
        unmount(vm, disks)

    server.restart()

    with initiator.session(disks=2) as disks:
        for disk, kind in zip(disks, file_systems, strict=True):
            vm.sh(f"{CHECK[kind]} {disk}")
        for point in mount(vm, disks):
            check_files(vm, point)
        unmount(vm, disks)


@pytest.mark.parametrize(
    "backing",
    [EMBEDDED, pytest.param(RADOS, marks=pytest.mark.ceph)],
    ids=["embedded", "rados"],
    indirect=True,
)
def test_a_mounted_disk_grows_and_disks_come_and_go(
    vm: VirtualMachine, serve: ServerFactory, connect: Connect
) -> None:
    server = serve(["disk0=24M"])
    volume = VolumeCommand(server)
    initiator = connect(server)
    initiator.discover()
    with initiator.session(disks=1) as (disk,):
        vm.sh(f"mkfs.ext4 -q {disk}")
        (point,) = mount(vm, [disk])
        write_files(vm, point)
        with kernel_log.change(vm):
            volume.good("resize", "disk0", "80M")
            initiator.rescan()
            assert vm.sh(f"blockdev --getsize64 {disk}").strip() == str(80 << 20)
            vm.sh(f"resize2fs {disk}")
            write_and_delete_big_file(vm, point, BIG_FILE_MIB)  # there was no room for it
            volume.good("create", "db", "16M")
            added = initiator.rescan(lun=1)
            vm.sh(f"mkfs.ext4 -q {added}; e2fsck -fn {added}")
        with kernel_log.change(vm, gone=added):
            volume.good("delete", "db", "--yes", "--force")
            read = vm.run(f"dd if={added} bs=4k count=1 iflag=direct")
            assert read.status not in (0, KILLED), read.output
            vm.sh(f"echo 1 > /sys/block/{added.removeprefix('/dev/')}/device/delete")
            initiator.rescan()
            assert vm.run(f"[ -e {added} ]").status != 0
        check_files(vm, point)
        unmount(vm, [disk])
        vm.sh(f"e2fsck -fn {disk}")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_a_mounted_disk_outlives_the_target(
    vm: VirtualMachine, serve: ServerFactory, connect: Connect, how: signal.Signals
) -> None:
    """The target goes while files are being written, and comes back: nobody but it may notice."""
    server = serve(TWO_DISKS)
    initiator = connect(server)
    initiator.discover()
    with initiator.session(disks=2) as disks:
        vm.sh(f"mkfs.ext4 -q {disks[0]}; mkfs.xfs -q {disks[1]}")
        points = mount(vm, disks)
        writing = f"lunmesh-e2e: writing before {how.name}"
        # Until it is told to stop, so that it is writing when the target goes, however slow we are.
        vm.start(
            "round=0; while [ ! -e /run/stop ]; do round=$((round + 1)); "
            + "".join(
                f"dd if=/dev/urandom of={point}/file$((round % {FILES})) bs=1M count=3 conv=fsync; "
                for point in points
            )
            + f"[ $round != 2 ] || echo '<5>{writing}' > /dev/kmsg; done; rm /run/stop"
        )
        vm.sh(f"awk '/{writing}/ {{ exit }}' /dev/kmsg")
        with kernel_log.outage(vm):
            if how == signal.SIGKILL:
                server.kill()
                server.start()
            else:
                server.restart()
            vm.sh("touch /run/stop")
            vm.finish()
        for point in points:
            vm.sh(f"cd {point}; sha256sum file* > SUMS; sync")
        # Mounted anew, so that the files come from the target and not from the guest's memory.
        unmount(vm, disks)
        for point in mount(vm, disks):
            vm.sh(f"cd {point}; [ $(wc -l < SUMS) -ge 2 ]; sha256sum -c SUMS")
        unmount(vm, disks)


@pytest.mark.parametrize(
    ("backing", "disk", "engine"),
    [
        (EMBEDDED, 0, "libaio"),
        (EMBEDDED, 1, "io_uring"),
        (WORKERS, 0, "libaio"),
        pytest.param(RADOS, 1, "libaio", marks=pytest.mark.ceph),
    ],
    ids=["embedded-libaio", "embedded-io_uring", "workers", "rados"],
    indirect=["backing"],
)
def test_random_writes_verify_at_depth_32(
    vm: VirtualMachine, serve: ServerFactory, connect: Connect, disk: int, engine: str
) -> None:
    initiator = connect(serve(TWO_DISKS))
    initiator.discover()
    with initiator.session(disks=2) as disks:
        vm.sh(
            f"fio --name=verify --filename={disks[disk]} --ioengine={engine} --direct=1 "
            "--rw=randrw --iodepth=32 --bssplit=4k/70:16k/15:64k/10:512k/5 --size=64M "
            "--verify=crc32c-intel --verify_fatal=1 --verify_backlog=512 --randseed=1",
            timeout_s=180,
        )


@pytest.mark.parametrize(
    ("how", "gives_space_back"),
    [("blkdiscard", True), ("fallocate --punch-hole", True), ("blkdiscard --zeroout", False)],
    ids=["unmap", "write-same-unmap", "write-same"],
)
def test_cleared_ranges_read_as_zeros(
    vm: VirtualMachine,
    serve: ServerFactory,
    connect: Connect,
    how: str,
    gives_space_back: bool,
) -> None:
    server = serve(TWO_DISKS)
    initiator = connect(server)
    initiator.discover()
    with initiator.session(disks=2) as disks:
        for disk in disks:
            vm.sh(f"dd if=/dev/urandom of={disk} bs=1M count=16 oflag=direct")
            full = server.allocated_bytes()
            vm.sh(f"{how} --offset 4MiB --length 8MiB {disk}")
            if gives_space_back:
                assert full - server.allocated_bytes() >= 7 << 20
            vm.sh(
                f"dd if={disk} bs=1M count=16 iflag=direct of=/tmp/data; "
                "head -c 8388608 /dev/zero > /tmp/zeros; "
                "dd if=/tmp/data bs=1M skip=4 count=8 | cmp - /tmp/zeros; "
                # What lies around it is still there.
                "for edge in 3 12; do "
                "if dd if=/tmp/data bs=1M skip=$edge count=1 | cmp -s -n 1048576 - /tmp/zeros; "
                "then exit 1; fi; done"
            )


@pytest.mark.parametrize("initial_r2t", ["Yes", "No"])
@pytest.mark.parametrize("immediate_data", ["Yes", "No"])
@pytest.mark.parametrize("digest", ["None", "CRC32C"])
def test_data_arrive_whole_however_they_are_sent(
    vm: VirtualMachine,
    serve: ServerFactory,
    connect: Connect,
    initial_r2t: str,
    immediate_data: str,
    digest: str,
) -> None:
    asked = {
        "InitialR2T": initial_r2t,
        "ImmediateData": immediate_data,
        "HeaderDigest": digest,
        "DataDigest": digest,
    }
    initiator = connect(serve(["disk0=64M"]))
    initiator.add()
    initiator.configure(
        {
            f"node.{'conn[0]' if 'Digest' in name else 'session'}.iscsi.{name}": value
            for name, value in asked.items()
        }
    )
    with initiator.session(disks=1) as (disk,):
        agreed = initiator.negotiated()
        assert {name: agreed[name] for name in asked} == asked
        for kib, count in ((4, 256), (1024, 8)):
            transfer = f"bs={kib}k count={count}"
            vm.sh(f"dd if=/dev/urandom of=/tmp/data {transfer}")
            vm.sh(f"dd if=/tmp/data of={disk} {transfer} oflag=direct")
            vm.sh(f"dd if={disk} {transfer} iflag=direct | cmp - /tmp/data")
