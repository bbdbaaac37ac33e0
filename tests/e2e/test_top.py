"""`lunmesh top` beside a node that is busy."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.lunmesh_server import LunmeshServer
from tests.support.tools import require_tool
from tests.support.volume_command import VolumeCommand


def test_top(tmp_path: Path) -> None:
    require_tool("iscsi-perf")
    with LunmeshServer(tmp_path, ["disk0=16M", "idle=16M"]) as server:
        top = VolumeCommand(server, "top")
        url = f"iscsi://{server.portal}/{server.iqn}/0"
        load = subprocess.Popen(
            ["iscsi-perf", "-b", "8", "-m", "8", "-r", "-t", "30", url],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not (seen := top.json("--interval", "0.5"))["luns"][0]["all"]["iops"]:
                pass
            table = top.good("--once", "--interval", "0.5")
        finally:
            load.kill()
            load.wait()
        busy, idle = seen["luns"]
        assert seen["sessions"] == 1
        read = busy["classes"]["read"]
        assert 0.99 < read["bytes_per_second"] / (read["iops"] * 4096) <= 1
        assert 0 < read["p50_seconds"] <= read["p99_seconds"] < 30
        assert 0 < read["mean_seconds"] < 30
        assert idle["all"]["iops"] == 0
        head, headings, first, second = table.splitlines()
        assert "1 sessions" in head
        assert headings.split()[:3] == ["LUN", "volume", "read/s"]
        assert first.split()[:2] == ["0", "disk0"]
        assert int(first.split()[2]) > 0
        assert second.split()[:3] == ["1", "idle", "0"]
        assert top.refused("--interval", "0", status=2).startswith("--interval: must be 0.1 to")
    assert "no node answers" in top.refused("--once")
