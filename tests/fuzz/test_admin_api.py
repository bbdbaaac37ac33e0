"""Schemathesis calls every operation of the admin API: with what is described, and what is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.initiator import Initiator
from tests.support.lunmesh_server import LunmeshServer

EXAMPLES = 30  # of each operation and phase
# What names, sizes and addresses may be is not in the description: it is said in the answer.
UNDESCRIBED = "positive_data_acceptance"


def test_whatever_is_asked_the_answer_is_described_and_the_node_goes_on(tmp_path: Path) -> None:
    with LunmeshServer(tmp_path / "node", ["disk0=16M"]) as node:
        done = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("schemathesis")), "run"),
                *(f"http://{node.admin}/openapi.json", "--exclude-checks", UNDESCRIBED),
                *("--max-examples", str(EXAMPLES), "--generation-deterministic", "--no-color"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:]
        with Initiator(node.host, node.port, target=None) as client:
            client.login(discovery=True)
            client.send_targets()
