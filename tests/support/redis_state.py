"""What two nodes have left in a Redis, in their data directories and on a worker: as fixtures.

    python -m tests.support.redis_state tests/fixtures/redis-format-N

makes one with the code that is here; run it before a format rises.  ``Left`` is a copy of one, and
a Redis that has it all.  Nothing here depends on pytest.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import redis as redis_py

from target.cluster import redis_registry
from target.scsi.reservations.state import Type
from tests.support import cdb, reservations
from tests.support.initiator import Initiator
from tests.support.iscsi_task import Task
from tests.support.lunmesh_server import LunmeshServer
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.redis_server import RedisServer
from tests.support.volume_command import VolumeCommand

NODES: Final = ("a", "b")
OTHER: Final = "iqn.2026-11.io.lunmesh:other"
USER: Final = ("alice", "only-of-a-fixture")
HOLDER: Final = "iqn.2026-11.io.lunmesh.test:holder"
STRANGER: Final = "iqn.2026-11.io.lunmesh.test:stranger"
ISID: Final = b"\x80\0\0\0\0\1"
KEY: Final = 0xA
MADE_LUN: Final = 7
BLOCKS: Final = 128
PATTERNS: Final = {"disk0": b"\x44", "made": b"\x4d"}
CACHING: Final = 0x08
SECONDS_MAX: Final = 60
_ADDRESS: Final = "unix:WORKER"
_GOOD, _RETRY = 0x00, (0x02, 0x08)  # a unit attention, BUSY


class Left:
    """A copy in ``folder``, which may be changed."""

    def __init__(self, fixture: Path, folder: Path) -> None:
        shutil.copytree(fixture, folder)
        self.folder = folder
        self._address = f"unix:{folder}/worker.sock"
        for name in NODES:
            catalog = folder / name / "data" / "catalog.json"
            catalog.write_text(self._with_address(catalog.read_text("utf-8")), "utf-8")

    def _with_address(self, text: str) -> str:
        return text.replace(_ADDRESS, self._address)

    def worker(self) -> LunmeshWorker:
        return worker_in(self.folder)

    @contextlib.contextmanager
    def redis(self) -> Iterator[RedisServer]:
        """One that has what was left, the functions as well."""
        with RedisServer(self.folder / "redis") as server, server.client() as client:
            client.function_load((self.folder / "functions.lua").read_text("ascii"))
            commands = (self.folder / "redis.json").read_text("utf-8").splitlines()
            for command in commands:
                client.execute_command(*json.loads(self._with_address(command)))
            yield server

    def node(self, name: str, redis: RedisServer, **more: Any) -> LunmeshServer:
        return node_in(self.folder, name, redis, **more)


def worker_in(folder: Path) -> LunmeshWorker:
    return LunmeshWorker(
        folder / "run", listen=f"unix:{folder}/worker.sock", store=f"file:{folder}/worker"
    )


def node_in(folder: Path, name: str, redis: RedisServer, **more: Any) -> LunmeshServer:
    flags = ["--redis", redis.url, "--node-id", name, "--lease", "10"]
    flags += ["--worker", f"unix:{folder}/worker.sock"]
    volumes = [f"disk0={BLOCKS // 2}K,chunk=64K"]
    return LunmeshServer(folder / name, volumes, arguments=flags, **more)


def login(node: LunmeshServer, name: str = HOLDER, target: str = "") -> Initiator:
    session = Initiator(node.host, node.port, target=target or node.iqn, name=name, isid=ISID)
    session.login(chap=USER)
    return session


def command(session: Initiator, block: bytes, lun: int = 0, *, out: bytes = b"") -> Task:
    """Run one; unit attentions are taken on the way, and BUSY is for trying again."""
    deadline = time.monotonic() + SECONDS_MAX
    length = 0 if out else BLOCKS * 512
    while True:
        task = session.command(block, data_out=out, read_length=length, lun=lun)
        if task.status not in _RETRY or task.sense_key not in (0, 6):
            return task
        assert time.monotonic() < deadline, task


def _good(session: Initiator, block: bytes, lun: int = 0, *, out: bytes = b"") -> Task:
    task = command(session, block, lun, out=out)
    assert task.status == _GOOD, task
    return task


def write_cache(session: Initiator, lun: int) -> bool:
    """WCE, as it is now."""
    sense = _good(session, cdb.mode_sense10(CACHING), lun).data_in
    start = 8 + int.from_bytes(sense[6:8], "big")
    return bool(sense[start + 2] & 0x04)


def _write_through(session: Initiator, lun: int) -> None:
    sense = bytearray(_good(session, cdb.mode_sense10(CACHING), lun).data_in)
    start = 8 + int.from_bytes(sense[6:8], "big")
    sense[start + 2] &= ~0x04
    sense[start] &= 0x7F  # PS is reserved here
    page = bytes(8) + bytes(sense[start : start + 2 + sense[start + 1]])
    _good(session, struct.pack(">BB5xHx", 0x55, 0x10, len(page)), lun, out=page)


def _reserve(session: Initiator, lun: int, kind: Type, flags: int) -> None:
    register = reservations.keys(0, KEY, flags)
    _good(session, reservations.pr_out(reservations.REGISTER), lun, out=register)
    reserve = reservations.pr_out(reservations.RESERVE, kind)
    _good(session, reserve, lun, out=reservations.keys(KEY))


def leave_something(folder: Path) -> list[tuple[Any, ...]]:
    """Two nodes at work, killed; what Redis has then, as commands."""
    with (
        RedisServer(folder / "redis") as redis,
        worker_in(folder),
        node_in(folder, "a", redis) as a,
        node_in(folder, "b", redis) as b,
    ):
        VolumeCommand(a, "target").good("create", OTHER)
        VolumeCommand(b).good(
            "create", "made", "64K", "--chunk", "64K", "--target", OTHER, "--lun", str(MADE_LUN)
        )
        VolumeCommand(a, "acl").good("create", HOLDER)
        VolumeCommand(b, "acl").good("create", STRANGER, "--volume", "disk0")
        user = VolumeCommand(a, "user", {"SECRET": USER[1]})
        user.good("create", USER[0], "--secret-env", "SECRET")
        with login(a) as first, login(b, target=OTHER) as second:
            for session, lun, name in ((first, 0, "disk0"), (second, MADE_LUN, "made")):
                data = PATTERNS[name] * (BLOCKS * 512)
                _good(session, cdb.write10(0, BLOCKS), lun, out=data)
                _good(session, cdb.synchronize_cache10(), lun)
            _reserve(first, 0, Type.WRITE_EXCLUSIVE, reservations.APTPL)
            _reserve(second, MADE_LUN, Type.EXCLUSIVE_ACCESS, 0)
            _write_through(second, MADE_LUN)
        with redis.client() as client:
            a.kill()
            b.kill()
            return list(_commands(client))


def _commands(client: redis_py.Redis) -> Iterator[tuple[Any, ...]]:
    for key in sorted(client.scan_iter()):
        if client.type(key) == b"hash":
            pairs: dict[bytes, bytes] = client.hgetall(key)  # type: ignore[assignment]
            yield ("HSET", key, *(text for pair in sorted(pairs.items()) for text in pair))
        else:
            scores: Any = client.zrange(key, 0, -1, withscores=True)
            yield ("ZADD", key, *(text for name, score in scores for text in (int(score), name)))


def main(fixture: Path) -> None:
    """Write it."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        address = f"unix:{folder}/worker.sock"
        lines = []
        for command in leave_something(folder):
            texts = [text.decode() if isinstance(text, bytes) else text for text in command]
            lines.append(json.dumps(texts).replace(address, _ADDRESS))
        fixture.mkdir()
        (fixture / "redis.json").write_text("\n".join(lines) + "\n", "utf-8")
        (fixture / "functions.lua").write_text(redis_registry.SOURCE, "ascii")
        shutil.copytree(folder / "worker", fixture / "worker")
        for name in NODES:
            kept = fixture / name / "data"
            shutil.copytree(folder / name / "data", kept)
            (kept / "lock").unlink()
            catalog = kept / "catalog.json"
            catalog.write_text(catalog.read_text("utf-8").replace(address, _ADDRESS), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
