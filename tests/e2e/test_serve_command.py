"""``lunmesh serve`` as a process: its ready line, its signals, and what keeps it from starting."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lunmesh_server import PROJECT_ROOT, LunmeshServer, free_port
from tests.support.until import until

START_CPU_SECONDS_MAX = 1.0
GIB = 1 << 30


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LunmeshServer]:
    with LunmeshServer(tmp_path / "server", ["disk0=1G"]) as server:
        yield server


def refused(*args: str) -> tuple[int, str]:
    """Status and the one line of a `lunmesh` that must not start."""
    done = subprocess.run(
        [sys.executable, "-m", "target.cli", *args],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == ""
    assert done.stderr.startswith("lunmesh: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr


def stat_fields(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def process_state(pid: int) -> str:
    return stat_fields(pid)[0]


def count_sockets(pid: int) -> int:
    return sum("socket:" in str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir())


def cpu_seconds(pid: int) -> float:
    fields = stat_fields(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_it_says_when_it_is_ready_and_how_to_mount(server: LunmeshServer) -> None:
    used = cpu_seconds(server.pid)
    assert server.output[0] == f"lunmesh ready: {server.iqn} on {server.portal} (LUN 0 disk0 1 GiB)"
    with socket.create_connection((server.host, server.port), timeout=10):
        pass  # it meant it
    until(lambda: len(server.output) == 6)
    text = "\n".join(server.output)
    assert f"iscsiadm -m discovery -t sendtargets -p {server.portal}" in text
    assert f"qemu-img info {server.url()}" in text
    assert f"lunmesh volume list --admin {server.admin}" in text
    assert used < START_CPU_SECONDS_MAX


def test_the_disk_is_thin(server: LunmeshServer) -> None:
    assert (server.data_dir / "volumes" / "disk0.raw").stat().st_size == GIB
    assert server.allocated_bytes() < 1 << 20


def test_it_takes_as_many_files_as_the_system_lets_it(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard - 1), hard))
    try:
        with LunmeshServer(tmp_path / "server", ["disk0=1M"]) as server:
            assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_sigterm_ends_it_with_status_0(tmp_path: Path) -> None:
    with LunmeshServer(tmp_path, ["disk0=1M"]) as server:
        assert server.stop() == 0
        assert "stopped" in server.stderr()
        assert "Traceback" not in server.stderr()


def test_sigint_does_as_well(tmp_path: Path) -> None:
    with LunmeshServer(tmp_path, ["disk0=1M"]) as server:
        os.kill(server.pid, signal.SIGINT)
        until(lambda: process_state(server.pid) == "Z")
        assert server.stop() == 0  # it has ended already: this signal goes nowhere


def test_sigterm_ends_one_that_still_starts(tmp_path: Path) -> None:
    worker = f"127.0.0.1:{free_port()}"  # nobody is there
    node = LunmeshServer(
        tmp_path, ["disk0=1M"], arguments=["--worker", worker, "--worker-wait", "600"]
    )
    with node.stderr_path.open("wb") as stderr:
        process = subprocess.Popen(
            node.command(), cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=stderr
        )
    with process:
        until(lambda: "worker away" in node.stderr())
        process.send_signal(signal.SIGTERM)
        try:
            said, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, said) == (0, b"")


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    arguments = ("--shutdown-timeout", "600", "--login-timeout", "600")
    with LunmeshServer(tmp_path, ["disk0=1M"], arguments=arguments) as server:
        idle = count_sockets(server.pid)
        # A login that does not come: there is something to wait for.
        connection = socket.create_connection((server.host, server.port), timeout=10)
        until(lambda: count_sockets(server.pid) > idle)
        # Both are there when it wakes up, so it cannot have ended after the first.
        for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
            os.kill(server.pid, number)
        started = time.monotonic()
        until(lambda: process_state(server.pid) == "Z")
        assert server.stop() == 1
        assert time.monotonic() - started < 10
        connection.close()


def test_a_port_that_is_taken(server: LunmeshServer, tmp_path: Path) -> None:
    status, line = refused(
        "serve", "--portal", server.portal, "--data-dir", str(tmp_path / "other")
    )
    assert status == 1
    assert server.portal in line
    assert "address already in use" in line


def test_an_address_that_is_not_ours(tmp_path: Path) -> None:
    status, line = refused("serve", "--portal", "192.0.2.1:3260", "--data-dir", str(tmp_path))
    assert status == 1
    assert "192.0.2.1:3260" in line


def test_a_data_directory_that_is_in_use(server: LunmeshServer) -> None:
    data = ["--data-dir", str(server.data_dir)]
    portal = f"127.0.0.1:{free_port()}"
    for command in (["serve", "--portal", portal, *data], ["scsi", *data, "inquiry"]):
        status, line = refused(*command)
        assert status == 1
        assert f"{server.data_dir} is in use by process {server.pid}" in line


def test_a_data_directory_that_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "below"):
        status, line = refused("serve", "--portal", "127.0.0.1:0", "--data-dir", str(path))
        assert status == 1
        assert str(path) in line


@pytest.mark.parametrize(
    ("content", "volume", "problem"),
    [
        (b"x" * 100, "disk0={}", "less than one block of 512"),
        (b"x" * 1000, "disk0={}", "no multiple of its 512-byte blocks"),
        (b"x" * 4608, "disk0={},block=4096", "no multiple of its 4096-byte blocks"),
        (None, "disk0={}", "no such file"),
    ],
)
def test_an_image_that_cannot_be_served(
    tmp_path: Path, content: bytes | None, volume: str, problem: str
) -> None:
    image = tmp_path / "image"
    if content is not None:
        image.write_bytes(content)
    status, line = refused(
        "serve",
        *("--data-dir", str(tmp_path / "data")),
        *("--portal", "127.0.0.1:0"),
        *("--volume", volume.format(image)),
    )
    assert status == 2
    assert problem in line.lower()


def test_a_volume_does_not_change_its_nature(tmp_path: Path) -> None:
    with LunmeshServer(tmp_path, ["disk0=2M"]) as server:
        assert server.stop() == 0
        data = ("--data-dir", str(server.data_dir), "--portal", "127.0.0.1:0")
        for volume, problem in (
            ("disk0=1M", "cannot shrink"),
            ("disk0=2M,block=4096", "blocks of 512 bytes"),
        ):
            status, line = refused("serve", *data, "--volume", volume)
            assert status == 1
            assert problem in line


def test_a_catalog_that_is_damaged(tmp_path: Path) -> None:
    with LunmeshServer(tmp_path, ["disk0=1M"]) as server:
        assert server.stop() == 0
        (server.data_dir / "catalog.json").write_text("{")
        status, line = refused("serve", "--data-dir", str(server.data_dir))
        assert status == 1
        assert "catalog.json" in line


def test_scsi_commands_to_a_volume_that_nobody_serves(tmp_path: Path) -> None:
    with LunmeshServer(tmp_path, ["disk0=2M", "disk1=2M,block=4096"]) as server:
        assert server.stop() == 0
        blocks = tmp_path / "blocks"
        blocks.write_bytes(os.urandom(3 * 4096))

        def scsi(volume: str, *args: str, status: int = 0) -> str:
            data = ["--data-dir", str(server.data_dir), "--volume", volume]
            done = subprocess.run(
                [sys.executable, "-m", "target.cli", "scsi", *data, *args],
                cwd=PROJECT_ROOT,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == status, done.stderr
            return done.stdout if status == 0 else done.stderr

        assert "vendor" in scsi("disk0", "inquiry")
        assert "00000000  00 83" in scsi("disk0", "inquiry", "--page", "0x83")
        assert scsi("disk0", "readcap").startswith("4096 blocks of 512 bytes")
        assert scsi("disk1", "readcap").startswith("512 blocks of 4096 bytes")
        scsi("disk1", "write", "7", str(blocks))
        scsi("disk1", "read", "7", "3", "-o", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == blocks.read_bytes()
        assert (
            (server.data_dir / "volumes" / "disk1.raw")
            .read_bytes()[7 * 4096 :]
            .startswith(blocks.read_bytes())
        )
        assert "00000000  " in scsi("disk0", "raw", "12 00 00 00 24 00", "--in", "36")
        assert "INVALID OPCODE (20h/00h)" in scsi("disk0", "raw", "ff0000000000", status=1)
        assert "reach past the last one" in scsi("disk0", "read", "4096", "1", status=1)
        assert "WRITE PROTECTED" in scsi("disk1", "--readonly", "write", "0", str(blocks), status=1)
        assert "no volume 'nosuch'" in scsi("nosuch", "readcap", status=1)


def test_scsi_makes_no_directory(tmp_path: Path) -> None:
    status, line = refused("scsi", "--data-dir", str(tmp_path / "nosuch"), "readcap")
    assert status == 1
    assert "no such file or directory" in line
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_nobody_reads_does_not_keep_it_from_stopping(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "target.cli", "serve", "--data-dir", str(tmp_path / "data")),
            *("--portal", "127.0.0.1:0", "--admin", "off"),
        ],
        stdout=subprocess.PIPE,
        stderr=writer,
        text=True,
    ) as server:
        os.close(writer)
        assert server.stdout is not None
        assert "lunmesh ready" in server.stdout.readline()
        os.close(reader)
        server.terminate()
        assert server.wait(30) == 0


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_it_serves_and_stops_without_the_streams_of_a_terminal(
    tmp_path: Path, closed: tuple[int, ...]
) -> None:
    """Their numbers must not go to the event loop or to a disk."""
    port = free_port()
    command = [sys.executable, "-m", "target.cli", "serve", "--portal", f"127.0.0.1:{port}"]
    command += ["--admin", "off", "--data-dir", str(tmp_path / "data")]
    closing = "".join(f" {number}<&-" for number in closed)
    shell = ["sh", "-c", f'exec "$@"{closing}', "sh", *command]
    process = subprocess.Popen(shell, cwd=PROJECT_ROOT)
    try:
        until(lambda: accepts(port), "it serves")
        for number in closed:
            assert os.readlink(f"/proc/{process.pid}/fd/{number}") == os.devnull
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def accepts(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
