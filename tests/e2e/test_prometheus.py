"""Prometheus on two nodes and two workers: what the dashboard draws, and what it warns of."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support import cdb
from tests.support.initiator import Initiator
from tests.support.lunmesh_server import PROJECT_ROOT, free_port
from tests.support.node_cluster import NodeCluster
from tests.support.tools import require_tool, run_tool

COMPOSE = PROJECT_ROOT / "deploy" / "compose"
SECONDS_MAX = 60
# What there is of these in a cluster where nothing is wrong: samples, or none.
RARE = ("failures", "task_management")


class Prometheus:
    """A running one, and what it is asked."""

    def __init__(self, folder: Path, targets: dict[str, list[str]]) -> None:
        config = yaml.safe_load((COMPOSE / "prometheus.yml").read_text("utf-8"))
        config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        config["rule_files"] = [str(COMPOSE / name) for name in config["rule_files"]]
        assert {job["job_name"] for job in config["scrape_configs"]} == set(targets)
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": targets[job["job_name"]]}]
        folder.mkdir()
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config), "utf-8")
        run_tool(["promtool", "check", "config", str(file)])
        self._address = f"127.0.0.1:{free_port()}"
        self._command = [
            require_tool("prometheus"),
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self._address}",
            "--log.level=error",
        ]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with subprocess.Popen(self._command) as process:
            try:
                yield
            finally:
                process.kill()

    def ask(self, what: str, **query: str) -> Any:
        url = f"http://{self._address}/api/v1/{what}?{urllib.parse.urlencode(query)}"
        deadline = time.monotonic() + SECONDS_MAX
        while True:
            try:
                with urllib.request.urlopen(url, timeout=SECONDS_MAX) as answer:
                    return json.load(answer)["data"]
            except urllib.error.HTTPError as exc:
                if exc.code != 503:  # it is starting
                    raise AssertionError(f"{query}: {exc.read().decode()}") from exc
            except urllib.error.URLError:
                pass
            assert time.monotonic() < deadline, "it does not answer"

    def samples(self, expression: str) -> list[Any]:
        found: list[Any] = self.ask("query", query=expression)["result"]
        return found

    def until_told(self, expression: str) -> None:
        """Wait until it has samples."""
        deadline = time.monotonic() + SECONDS_MAX
        while not self.samples(expression):
            assert time.monotonic() < deadline, f"nothing of {expression}"
            time.sleep(0.1)

    def firing(self) -> set[str]:
        alerts = self.ask("alerts")["alerts"]
        return {it["labels"]["alertname"] for it in alerts if it["state"] == "firing"}


def drawn() -> list[str]:
    """The expressions of the dashboard."""
    text = (COMPOSE / "grafana" / "dashboards" / "lunmesh.json").read_text("utf-8")
    panels = json.loads(text)["panels"]
    return [it["expr"] for panel in panels for it in panel.get("targets", ())]


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
        prometheus = Prometheus(tmp_path / "prometheus", targets)
        with prometheus.running():
            judged(prometheus, cluster)


def judged(prometheus: Prometheus, cluster: NodeCluster) -> None:
    use(cluster)
    prometheus.until_told("lunmesh_scsi_command_seconds_count > 0")
    use(cluster)  # a rate is of two looks
    for expression in drawn():
        if not any(rare in expression for rare in RARE):
            prometheus.until_told(expression)
    told = set(prometheus.ask("metadata"))
    rules = prometheus.ask("rules")["groups"][0]["rules"]
    for expression in [*drawn(), *(rule["query"] for rule in rules)]:
        for name in re.findall(r"lunmesh_\w+", expression):
            family = re.sub(r"_(total|count|bucket|sum)$", "", name)
            assert {name, family} & told, f"{name} is no metric"
    assert all(rule["health"] == "ok" for rule in rules), rules
    assert not prometheus.firing() & {"LunmeshDown", "LunmeshWorkerAway", "LunmeshNodeShutOut"}
    cluster.workers[1].kill()
    deadline = time.monotonic() + SECONDS_MAX
    while not prometheus.firing() >= {"LunmeshDown", "LunmeshWorkerAway"}:
        assert time.monotonic() < deadline, prometheus.firing()
        time.sleep(0.1)
