"""A node alone neither imports a client of Redis nor needs one."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from tests.support.cdb import write10
from tests.support.incrementers import connect, until_good
from tests.support.lunmesh_server import LunmeshServer, ServerError
from tests.support.volume_command import VolumeCommand

# Whoever imports one of them gets ModuleNotFoundError.
SERVE = """
import sys
sys.modules["redis"] = sys.modules["hiredis"] = None
from target.cli.run import run
sys.exit(run(["serve", *sys.argv[1:]]))
"""


def test_where_redis_py_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNMESH_TEST_COMMAND", shlex.join([sys.executable, "-c", SERVE]))
    with LunmeshServer(tmp_path, ["disk0=16M"]) as node:
        until_good(node, write10(0, 1), data_out=bytes(512))
        with connect(node, "one"):
            (session,) = VolumeCommand(node, "session").json("list")
            assert session["commands"] == 0
        assert node.stop() == 0
    others = ["--redis", "redis://127.0.0.1:1", "--worker", "127.0.0.1:1"]
    among_others = LunmeshServer(tmp_path, [], arguments=others)
    with pytest.raises(ServerError, match=r"import of (hi)?redis"):  # the test would see one
        among_others.start()
