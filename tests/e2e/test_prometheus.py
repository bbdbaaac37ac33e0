"""Prometheus on two nodes and two workers: what the dashboard draws, and what it warns of."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.support import cdb
from tests.support.initiator import Initiator
from tests.support.lunmesh_server import free_port
from tests.support.node_cluster import NodeCluster
from tests.support.prometheus import COMPOSE, Prometheus, drawn
from tests.support.tools import require_tool, run_tool


class LocalPrometheus(Prometheus):
    """A process of this machine, with the project's rules and targets of its own."""

    def __init__(self, folder: Path, targets: dict[str, list[str]]) -> None:
        super().__init__(f"127.0.0.1:{free_port()}")
        config = yaml.safe_load((COMPOSE / "prometheus.yml").read_text("utf-8"))
        config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        del config["alerting"]  # there is nobody to tell
        config["rule_files"] = [str(COMPOSE / name) for name in config["rule_files"]]
        assert {job["job_name"] for job in config["scrape_configs"]} == set(targets)
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": targets[job["job_name"]]}]
        folder.mkdir()
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config), "utf-8")
        run_tool(["promtool", "check", "config", str(file)])
        self._command = [
            require_tool("prometheus"),
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.address}",
            "--log.level=error",
        ]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with subprocess.Popen(self._command) as process:
            try:
                yield
            finally:
                process.kill()


def use(cluster: NodeCluster) -> None:
    for node in cluster.nodes:
        with Initiator(node.host, node.port, target=node.iqn, name=f"iqn.x:{node.port}") as one:
            one.login()
            while one.command(cdb.TEST_UNIT_READY).status:
                pass
            for lba in range(8):
                one.command(cdb.write10(lba, 1), data_out=bytes(512))
                one.command(cdb.read10(lba, 1), read_length=512)


def test_all_that_is_drawn_is_there_and_what_is_wrong_is_told(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    with NodeCluster(tmp_path, ["disk0=16M"], workers=2) as cluster:
        for worker, port in zip(cluster.workers, ports, strict=True):
            worker.stop()
            worker.start("--metrics", str(port))
        targets = {
            "lunmesh-nodes": [node.admin for node in cluster.nodes],
            "lunmesh-workers": [f"127.0.0.1:{port}" for port in ports],
        }
        prometheus = LocalPrometheus(tmp_path / "prometheus", targets)
        with prometheus.running():
            judged(prometheus, cluster)


def judged(prometheus: Prometheus, cluster: NodeCluster) -> None:
    use(cluster)
    prometheus.until_told("lunmesh_scsi_command_seconds_count > 0")
    use(cluster)  # a rate is of two looks
    prometheus.until_all_drawn()
    told = set(prometheus.ask("metadata"))
    rules = prometheus.ask("rules")["groups"][0]["rules"]
    for expression in [*drawn(), *(rule["query"] for rule in rules)]:
        for name in re.findall(r"lunmesh_\w+", expression):
            family = re.sub(r"_(total|count|bucket|sum)$", "", name)
            assert {name, family} & told, f"{name} is no metric"
    assert all(rule["health"] == "ok" for rule in rules), rules
    assert not prometheus.firing() & {"LunmeshDown", "LunmeshWorkerAway", "LunmeshNodeShutOut"}
    cluster.workers[1].kill()
    prometheus.until_firing("LunmeshDown", "LunmeshWorkerAway")
