"""What nodes of earlier versions left in Redis is served; nodes are replaced by those of a later
version, one after the other; what that one wrote is refused, untouched.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from target.cluster.redis_registry import KNOWN, document_key
from target.scsi.reservations.state import Type
from target.shared_catalog import KEY, UNIT
from tests.support import cdb, reservations
from tests.support import redis_state as state
from tests.support.initiator import Initiator
from tests.support.logins import may_log_in
from tests.support.lunmesh_server import LunmeshServer, ServerError
from tests.support.lunmesh_worker import LunmeshWorker, WorkerProcessError
from tests.support.redis_server import RedisServer
from tests.support.redis_state import command, login

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
FORMATS = "lunmesh:{lunmesh}:formats"
CATALOG = document_key(UNIT, KEY)
CONFLICT = 0x18
READ, WRITE = cdb.read10(0, state.BLOCKS), cdb.write10(0, 1)
SERIAL = 0x80
NEXT = KNOWN.newest + 1


def format_in(client: redis_py.Redis) -> int:
    return int(client.hget(FORMATS, "format") or 0)


def left_by(version: int, tmp_path: Path) -> state.Left:
    return state.Left(FIXTURES / f"redis-format-{version}", tmp_path / "left")


def kept(node: LunmeshServer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((node.data_dir / "node.json").read_text("utf-8"))
    return found


@pytest.mark.parametrize("version", [0, 1])
def test_what_two_nodes_left_is_served(tmp_path: Path, version: int) -> None:
    left = left_by(version, tmp_path)
    with left.redis() as redis, redis.client() as client, left.worker():
        volumes = json.loads(client.hget(CATALOG, "document") or "")["volumes"]
        with left.node("a", redis) as a:
            assert format_in(client) == version, "b's last life may still write"
            with left.node("b", redis) as b:
                assert format_in(client) == KNOWN.newest
                assert [(kept(it)["epoch"], kept(it)["number"]) for it in (a, b)] == [
                    (2, 1),
                    (2, 2),
                ]
                of_holder(a, b, volumes)
                of_stranger(a, b)


def of_holder(a: LunmeshServer, b: LunmeshServer, volumes: dict[str, Any]) -> None:
    """Who reserved ``disk0`` through a, with APTPL, and ``made`` through b, without."""
    units = (("disk0", "", 0), ("made", state.OTHER, state.MADE_LUN))
    for node, mine, (name, target, lun) in zip((a, b), (b, a), units, strict=True):
        with login(node, target=target) as session:
            data = command(session, READ, lun).data_in
            assert bytes(data) == state.PATTERNS[name] * (state.BLOCKS * 512)
            serial = command(session, cdb.inquiry(SERIAL), lun).data_in
            assert volumes[name]["uuid"].replace("-", "").encode() in bytes(serial)
            assert command(session, WRITE, lun, out=bytes(512)).status == 0
            assert state.write_cache(session, lun) == (name == "disk0")
            keys = command(session, reservations.pr_in(reservations.READ_KEYS), lun).data_in
            assert int.from_bytes(keys[8:16], "big") == state.KEY
        with login(mine, target=target) as other_path:
            assert command(other_path, WRITE, lun, out=bytes(512)).status == CONFLICT


def of_stranger(a: LunmeshServer, b: LunmeshServer) -> None:
    for node in (a, b):
        with login(node, state.STRANGER) as session:
            assert command(session, READ).status == 0
            assert command(session, WRITE, out=bytes(512)).status == CONFLICT
            held = command(session, reservations.pr_in(reservations.READ_RESERVATION)).data_in
            expected = reservations.reservation_data(0, state.KEY, Type.WRITE_EXCLUSIVE)
            assert bytes(held[8 : len(expected)]) == expected[8:]
        assert not may_log_in(node, state.STRANGER, target=state.OTHER, chap=state.USER)
        assert not may_log_in(node, state.HOLDER)
        assert not may_log_in(node, state.HOLDER, chap=(state.USER[0], "of-somebody-else"))


def test_nodes_are_replaced_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_the_next_version(node: LunmeshServer) -> None:
        with monkeypatch.context() as patch:
            started = f"{sys.executable} -m tests.support.next_format serve"
            patch.setenv("LUNMESH_TEST_COMMAND", started)
            node.start()

    with (
        RedisServer(tmp_path / "redis") as redis,
        redis.client() as client,
        state.worker_in(tmp_path),
        state.node_in(tmp_path, "a", redis) as a,
        state.node_in(tmp_path, "b", redis) as b,
    ):
        assert format_in(client) == KNOWN.newest
        assert b.stop() == 0
        of_the_next_version(b)
        assert format_in(client) == KNOWN.newest
        written_through_one_and_read_through_the_other(a, b, b"\1")
        written_through_one_and_read_through_the_other(b, a, b"\2")
        assert b.stop() == 0
        b.start()  # the way back, while there is one node of the older version
        assert b.stop() == 0
        of_the_next_version(b)
        assert a.stop() == 0
        of_the_next_version(a)
        assert format_in(client) == NEXT
        written_through_one_and_read_through_the_other(a, b, b"\3")
        assert a.stop() == 0
        words = f"Redis has format {NEXT}, this version knows {KNOWN.newest} at most: update"
        before = client.hgetall(FORMATS)
        with pytest.raises(ServerError, match=words):
            a.start()
        store = f"file:{tmp_path}/another"
        worker = LunmeshWorker(tmp_path / "w", store=store, arguments=["--redis", redis.url])
        with pytest.raises(WorkerProcessError, match=words):
            worker.start()
        assert client.hgetall(FORMATS) == before
        assert b.stop() == 0
        client.flushall()  # docs/operations.md, "Back"
        a.start()
        assert format_in(client) == KNOWN.newest
        with login_open(a) as reads:
            assert bytes(command(reads, READ).data_in[:512]) == b"\3" * 512


def written_through_one_and_read_through_the_other(
    one: LunmeshServer, other: LunmeshServer, pattern: bytes
) -> None:
    with login_open(one) as writes, login_open(other) as reads:
        assert command(writes, WRITE, out=pattern * 512).status == 0
        assert bytes(command(reads, READ).data_in[:512]) == pattern * 512


def login_open(node: LunmeshServer) -> Initiator:
    session = Initiator(node.host, node.port, target=node.iqn)
    session.login()
    return session


def test_a_catalog_with_what_a_later_version_has_added_is_refused_and_left(tmp_path: Path) -> None:
    left = left_by(0, tmp_path)
    with left.redis() as redis, redis.client() as client, left.worker():
        catalog = json.loads(client.hget(CATALOG, "document") or "")
        catalog["volumes"]["made"]["sealed"] = True
        later = json.dumps(catalog).encode()
        client.hset(CATALOG, "document", later)
        with pytest.raises(ServerError, match=r"catalog in Redis cannot be read.*`sealed`"):
            left.node("a", redis).start()
        assert client.hget(CATALOG, "document") == later
