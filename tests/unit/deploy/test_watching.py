"""What Prometheus warns of, and what Grafana is provisioned with."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = ROOT / "deploy" / "compose"
GRAFANA = COMPOSE / "grafana"


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text("utf-8"))


def rules() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read(COMPOSE / "alerts.yml")["groups"][0]["rules"]
    return found


def test_the_page_has_all_rules_and_no_others() -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text("utf-8")
    _, _, section = text.partition("## What to be warned of")
    told = re.findall(r"^\| .* \| `(.*)` \|$", section.partition("\n## ")[0], re.MULTILINE)
    expressions = {rule["expr"] for rule in rules()}
    assert {line.replace(r"\|", "|") for line in told} == {
        expression for expression in expressions if not expression.startswith("up{")
    }


@pytest.mark.parametrize(("free", "fires"), [(99, False), (9, True)])
def test_a_disk_that_fills_up_is_told(tmp_path: Path, free: int, fires: bool) -> None:
    """As promtool judges it; the file system of each node and worker by itself."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    store = "lunmesh_store_bytes{instance='w1',what='%s'}"
    roomy = "lunmesh_store_bytes{instance='w2',what='%s'}"
    told = {
        "exp_labels": {"instance": "w1"},
        "exp_annotations": {"summary": f"w1: {free}% of its disk is left"},
    }
    test = {
        "rule_files": [str(COMPOSE / "alerts.yml")],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [
                    {"series": store % "free", "values": f"{free}x4"},
                    {"series": store % "size", "values": "100x4"},
                    {"series": roomy % "free", "values": "50x4"},
                    {"series": roomy % "size", "values": "100x4"},
                ],
                "alert_rule_test": [
                    {
                        "eval_time": "1m",
                        "alertname": "LunmeshDiskFillsUp",
                        "exp_alerts": [told] if fires else [],
                    }
                ],
            }
        ],
    }
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump(test), "utf-8")
    done = subprocess.run(
        ["promtool", "test", "rules", file], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafanas_dashboard_asks_the_source_that_is_provisioned() -> None:
    (source,) = read(GRAFANA / "provisioning" / "datasources" / "prometheus.yaml")["datasources"]
    (provider,) = read(GRAFANA / "provisioning" / "dashboards" / "lunmesh.yaml")["providers"]
    grafana = read(COMPOSE / "compose.yaml")["services"]["grafana"]
    mounts = dict(it.split(":")[:2] for it in grafana["volumes"])
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    assert source["url"] == "http://prometheus:9090"
    files = list((GRAFANA / "dashboards").iterdir())
    boards = [json.loads(file.read_text("utf-8")) for file in files]
    assert len({board["uid"] for board in boards}) == len(boards)
    for board in boards:
        panels = board["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        for panel in panels:
            assert {"x", "y", "w", "h"} == set(panel["gridPos"])
            wanted = {"type": source["type"], "uid": source["uid"]}
            assert panel["datasource"] == wanted, panel["title"]
            assert all(target["expr"] for target in panel.get("targets", ()))


def test_alertmanager_is_told_where_there_is_one() -> None:
    alertmanager = read(COMPOSE / "compose.yaml")["services"]["alertmanager"]
    assert alertmanager["profiles"] == ["alerts"]
    (told,) = read(COMPOSE / "prometheus.yml")["alerting"]["alertmanagers"]
    assert told["static_configs"] == [{"targets": ["alertmanager:9093"]}]
    config = read(COMPOSE / "alertmanager.yml")
    assert config["route"]["receiver"] in {it["name"] for it in config["receivers"]}
