"""QEMU's own initiator, its iscsi block driver in `qemu-img` and `qemu-io`, uses the disks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.e2e.conftest import ServerFactory
from tests.support.backing import EMBEDDED, RADOS, WORKERS
from tests.support.lunmesh_server import LunmeshServer
from tests.support.relay import Relay
from tests.support.tools import run_tool

KIB, MIB = 1 << 10, 1 << 20
SIZE = 64 * MIB
# What the source image has data in; all else is a hole. The lengths are no multiples of a chunk.
EXTENTS = ((0, 3 * MIB), (20 * MIB, MIB + 64 * KIB), (SIZE - 256 * KIB, 256 * KIB))
ALLOCATED = sum(length for _, length in EXTENTS)
# File systems round up and keep their own notes in the file's blocks.
SLACK = 256 * KIB
SECRET = "a-secret-of-its-own"

# Reads of a disk with 4096-byte blocks are no longer than this where QEMU does not know yet what
# is allocated: for 32 KiB or more, QEMU 7.2 asks first for the block status of 2 GiB less 512 bytes
# and stops at its own assertion that this is a whole number of blocks.
PIECE = 16 * KIB

# What a disk does is the same whatever backs it; what a session does, we look at once.
ON_CEPH = pytest.param(RADOS, marks=pytest.mark.ceph, id="rados")
on_ceph_too = pytest.mark.parametrize("backing", [EMBEDDED, WORKERS, ON_CEPH], indirect=True)
# What looks at the space that is taken on this machine cannot look into Ceph.
on_files = pytest.mark.parametrize("backing", [EMBEDDED, WORKERS], indirect=True)
both_block_sizes = pytest.mark.parametrize("block", [512, 4096])
# A worker does not know what a block is: over Ceph one size will do.
each_disk = pytest.mark.parametrize(
    ("backing", "block"),
    [
        *((backing, block) for backing in (EMBEDDED, WORKERS) for block in (512, 4096)),
        pytest.param(RADOS, 512, marks=pytest.mark.ceph, id="rados-512"),
    ],
    indirect=["backing"],
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "source.raw"
    with path.open("wb") as file:
        for offset, length in EXTENTS:
            file.seek(offset)
            file.write(os.urandom(length))
        file.truncate(SIZE)
    return path


def disk(block: int) -> list[str]:
    return [f"disk0={SIZE},block={block}"]


def copy_to(url: str, image: Path) -> None:
    run_tool(["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), url])


def compare(image: Path, url: str, *, format: str = "raw") -> str:
    command = ["qemu-img", "compare", "-f", format, "-F", "raw", str(image), url]
    return run_tool(command, check=False)


def qemu_io(url: str, *commands: str, options: tuple[str, ...] = ("-f", "raw")) -> str:
    """Run the commands one after the other; a pattern that is not found is a failure."""
    arguments = [part for command in commands for part in ("-c", command)]
    # Without "-d unmap" a discard is thrown away before it reaches us.
    output = run_tool(["qemu-io", "-d", "unmap", *options, *arguments, url])
    assert "failed" not in output, output
    return output


def read_ends(pattern: int, start: int, length: int) -> list[str]:
    """Commands that look at the first and the last piece of a range, and in between."""
    step = max(PIECE, length // 16)
    places = [*range(start, start + length - PIECE, step), start + length - PIECE]
    return [f"read -q -P {pattern} {place} {PIECE}" for place in places]


def data_extents(url: str) -> list[tuple[int, int]]:
    """What is not known to be zero: QEMU asks with GET LBA STATUS."""
    extents = json.loads(run_tool(["qemu-img", "map", "--output=json", "-f", "raw", url]))
    merged: list[tuple[int, int]] = []
    for start, length in ((e["start"], e["length"]) for e in extents if not e["zero"]):
        if merged and sum(merged[-1]) == start:
            start, length = merged[-1][0], merged.pop()[1] + length
        merged.append((start, length))
    return merged


@each_disk
def test_an_image_goes_there_and_back(
    serve: ServerFactory, image: Path, tmp_path: Path, block: int
) -> None:
    server = serve(disk(block))
    copy_to(server.url(), image)
    assert "identical" in compare(image, server.url())
    back = tmp_path / "back.qcow2"
    run_tool(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", server.url(), str(back)])
    assert "identical" in compare(back, str(image), format="qcow2")


@on_files
@both_block_sizes
def test_holes_stay_holes(serve: ServerFactory, image: Path, block: int) -> None:
    server = serve(disk(block))
    assert data_extents(server.url()) == []
    copy_to(server.url(), image)
    assert data_extents(server.url()) == list(EXTENTS)
    assert server.allocated_bytes() <= ALLOCATED + SLACK


def test_one_wrong_byte_is_found(serve: ServerFactory, image: Path) -> None:
    """What `compare` and `read -P` say is worth something."""
    server = serve(disk(512))
    copy_to(server.url(), image)
    qemu_io(server.url(), "write -P 0x5a 30M 512")
    assert "Content mismatch at offset 31457280" in compare(image, server.url())
    wrong = ["qemu-io", "-f", "raw", "-c", "read -P 0x5b 30M 512", server.url()]
    assert "verification failed" in run_tool(wrong, check=False)


@each_disk
def test_patterns_of_every_size(serve: ServerFactory, block: int) -> None:
    url = serve(disk(block)).url()
    commands, checks, offset = [], [], 0
    # From one piece to more than one command may transfer, each with a neighbour on both sides.
    for number, length in enumerate((PIECE, 64 * KIB, 256 * KIB + block, 48 * MIB), 1):
        commands += [f"write -P {number} {offset} {length}", f"read -P {number} {offset} {length}"]
        checks += read_ends(number, offset, length)
        offset += length
    qemu_io(url, f"write -P 9 {offset} {block}", *commands, f"read -P 9 {offset} {block}")
    # And in another session.
    qemu_io(url, *checks, f"read -P 9 {offset} {block}")


def test_requests_that_are_no_whole_blocks(serve: ServerFactory) -> None:
    """QEMU reads, changes and writes the blocks around them."""
    url = serve(disk(4096)).url()
    qemu_io(
        url,
        "write -P 1 0 16k",
        "write -P 2 1000 5000",
        "read -P 1 0 1000",
        "read -P 2 1000 5000",
        "read -P 1 6000 10384",
    )


@each_disk
def test_many_requests_at_once(serve: ServerFactory, block: int) -> None:
    url = serve(disk(block)).url()
    places = [(number % 251 + 1, number * 128 * KIB) for number in range(128)]
    qemu_io(
        url,
        *(f"aio_write -q -P {pattern} {offset} 128k" for pattern, offset in places),
        "aio_flush",
        *(f"aio_read -q -P {pattern} {offset} 128k" for pattern, offset in places),
        "aio_flush",
    )


@on_files
@both_block_sizes
def test_discard_gives_space_back(serve: ServerFactory, block: int) -> None:
    server = serve(disk(block))
    qemu_io(server.url(), "write -P 0xa5 0 16M", "flush")
    full = server.allocated_bytes()
    qemu_io(
        server.url(),
        "discard 4M 8M",
        *read_ends(0, 4 * MIB, 8 * MIB),
        *read_ends(0xA5, 0, 4 * MIB),
        *read_ends(0xA5, 12 * MIB, 4 * MIB),
    )
    assert data_extents(server.url()) == [(0, 4 * MIB), (12 * MIB, 4 * MIB)]
    assert full - server.allocated_bytes() >= 8 * MIB - SLACK


@on_files
@both_block_sizes
def test_write_zeroes(serve: ServerFactory, block: int) -> None:
    server = serve(disk(block))
    qemu_io(
        server.url(),
        "write -P 0xa5 0 8M",
        "write -z 1M 1M",
        "write -z -u 4M 2M",
        *read_ends(0xA5, 0, MIB),
        *read_ends(0, MIB, MIB),
        *read_ends(0xA5, 2 * MIB, 2 * MIB),
        *read_ends(0, 4 * MIB, 2 * MIB),
        *read_ends(0xA5, 6 * MIB, 2 * MIB),
    )
    # With -u the range may be given back, and is.
    assert (4 * MIB, 2 * MIB) in gaps(data_extents(server.url()))


def gaps(extents: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges between extents."""
    ends = [start + length for start, length in extents]
    starts = [start for start, _ in extents[1:]]
    return [(end, start - end) for end, start in zip(ends, starts, strict=False)]


@on_ceph_too
def test_writes_that_must_be_durable(serve: ServerFactory) -> None:
    """FUA and SYNCHRONIZE CACHE, and a server that is killed afterwards."""
    server = serve(disk(512))
    qemu_io(server.url(), "write -f -P 1 0 64k", "write -P 2 1M 64k", "flush")
    server.kill()
    server.start()
    qemu_io(server.url(), "read -P 1 0 64k", "read -P 2 1M 64k")


@on_files
def test_the_disk_is_found_again_after_a_restart(serve: ServerFactory, image: Path) -> None:
    server = serve(disk(512))
    copy_to(server.url(), image)
    server.restart()
    assert "identical" in compare(image, server.url())
    assert data_extents(server.url()) == list(EXTENTS)


@on_files
def test_a_read_only_disk_refuses_writes(serve: ServerFactory) -> None:
    server = serve([f"disk0={SIZE},readonly"])
    qemu_io(server.url(), "read -P 0 0 1M", options=("-r", "-f", "raw"))
    output = run_tool(["qemu-io", "-f", "raw", "-c", "write -P 1 0 64k", server.url()], check=False)
    assert "wrote" not in output
    qemu_io(server.url(), "read -P 0 0 64k", options=("-r", "-f", "raw"))


@on_files
@pytest.mark.parametrize(
    ("block", "load"),
    [
        (512, "-d 64 -s 4096 -c 4000"),
        (512, "-d 64 -s 4096 -c 4000 -w"),
        (512, "-d 16 -s 1048576 -c 128"),
        (512, "-d 16 -s 1048576 -c 128 -w"),
        (512, "-d 32 -s 65536 -c 256 -w --flush-interval=64"),
        (4096, "-d 64 -s 4096 -c 4000"),
        (4096, "-d 64 -s 4096 -c 4000 -w"),
        (4096, "-d 16 -s 1048576 -c 128 -w"),
    ],
)
def test_bench_runs_to_its_end(serve: ServerFactory, block: int, load: str) -> None:
    url = serve(disk(block)).url()
    output = run_tool(["qemu-img", "bench", "-f", "raw", "-t", "none", *load.split(), url])
    assert "Run completed" in output


def chap_url(server: LunmeshServer, secret: str) -> str:
    return server.url().replace("iscsi://", f"iscsi://alice%{secret}@")


def test_chap(serve: ServerFactory, image: Path) -> None:
    server = serve(disk(512), "--chap", f"alice:{SECRET}")
    copy_to(chap_url(server, SECRET), image)
    assert "identical" in compare(image, chap_url(server, SECRET))
    for url in (server.url(), chap_url(server, f"{SECRET}x")):
        refused = run_tool(["qemu-img", "info", "-f", "raw", url], check=False)
        assert "Authentication failure(513)" in refused


@both_block_sizes
@pytest.mark.parametrize(
    ("digest", "settled"),
    [
        ("crc32c", b"CRC32C"),
        ("none", b"None"),
        ("crc32c-none", b"CRC32C"),
        ("none-crc32c", b"None"),
    ],
)
def test_header_digests(serve: ServerFactory, block: int, digest: str, settled: bytes) -> None:
    """Each of the four offers that libiscsi can make, of which the first wins.

    It has no data digests.
    """
    server = serve(disk(block))
    with Relay(server.host, server.port) as relay:
        disk_options = (
            f"driver=raw,file.driver=iscsi,file.transport=tcp,file.portal={relay.host}:{relay.port},"
            f"file.target={server.iqn},file.lun=0,file.header-digest={digest}"
        )
        qemu_io(
            disk_options,
            "write -P 0x77 0 8M",
            "read -P 0x77 0 8M",
            "write -z -u 1M 1M",
            "read -P 0 1M 16k",
            "flush",
            options=("--image-opts",),
        )
    assert b"HeaderDigest=" + settled + b"\0" in relay.from_target
    # Without digests, the same data.
    checks = read_ends(0x77, 0, MIB) + read_ends(0, MIB, MIB) + read_ends(0x77, 2 * MIB, 6 * MIB)
    qemu_io(server.url(), *checks)
