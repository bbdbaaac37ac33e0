"""A Redis Sentinel that watches one primary, and what replicas need to be watched for.

    with sentinel_of(tmp_path / "sentinel", primary.port) as port:
        serve("--redis", f"redis+sentinel://127.0.0.1:{port}/{SERVICE}")

Nothing here depends on pytest.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import redis as redis_py

from tests.support.lunmesh_server import free_port
from tests.support.redis_server import RedisServer
from tests.support.until import until

SERVICE = "lun"
SENTINEL = """\
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor {service} 127.0.0.1 {primary} 1
sentinel down-after-milliseconds {service} 1000
sentinel failover-timeout {service} 5000
"""


@contextlib.contextmanager
def sentinel_of(folder: Path, primary: int) -> Iterator[int]:
    """A sentinel that watches ``primary``; its port.  It counts as agreed with itself."""
    folder.mkdir()
    port = free_port()
    file = folder / "sentinel.conf"
    file.write_text(SENTINEL.format(port=port, folder=folder, primary=primary, service=SERVICE))
    program = shutil.which("redis-server")
    assert program is not None
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, str(file), "--sentinel"], stdout=log, stderr=log)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def in_step(replica: RedisServer) -> bool:
    with replica.client() as client:
        return bool(client.info("replication")["master_link_status"] == "up")


def until_known(sentinel: int, replica: RedisServer) -> None:
    """Wait until the sentinel would have ``replica`` take over, with all that there is."""
    with redis_py.Redis(port=sentinel) as asked:
        until(lambda: asked.sentinel_slaves(SERVICE) and in_step(replica))


def until_primary(replica: RedisServer) -> None:
    """Wait until it has taken over."""
    with replica.client() as client:
        until(lambda: client.info("replication")["role"] == "master")
