"""The Kubernetes manifests: they are what the chart renders to, and the schemas accept them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.render_chart import CHART, render, render_chart

ROOT = Path(__file__).resolve().parents[3]
MANIFESTS = ROOT / "deploy" / "kubernetes" / "lunmesh.yaml"


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(MANIFESTS.read_text("utf-8")))


def test_manifests_are_the_charts() -> None:
    assert MANIFESTS.read_text("utf-8") == render_chart()


def test_the_schemas_accept_them() -> None:
    validate = [str(Path(sys.executable).with_name("kubernetes-validate")), "--strict"]
    done = subprocess.run(
        [*validate, str(MANIFESTS)], capture_output=True, text=True, timeout=60, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert said.count(" passed for ") == 14
    assert "failed" not in said.lower()


def test_all_pods_are_restricted(objects: list[dict[str, Any]]) -> None:
    """As the "restricted" Pod Security Standard asks, and a read-only root besides."""
    pods = [one["spec"]["template"]["spec"] for one in objects if one["kind"] == "StatefulSet"]
    assert len(pods) == 4
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_nodes_advertise_the_address_of_their_service(objects: list[dict[str, Any]]) -> None:
    services = {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "Service"}
    nodes = [
        one
        for one in objects
        if one["kind"] == "StatefulSet" and one["metadata"]["name"].startswith("lunmesh-node")
    ]
    assert len(nodes) == 2
    for node in nodes:
        service = services[node["spec"]["serviceName"]]
        template = node["spec"]["template"]
        assert service["selector"].items() <= template["metadata"]["labels"].items()
        args = template["spec"]["containers"][0]["args"]
        assert f"--advertise={service['loadBalancerIP']}:3260" in args
        assert f"--node-id={node['metadata']['name']}" in args


def test_the_renderer_refuses_what_only_helm_knows() -> None:
    values: dict[str, Any] = {"a": 1, "list": [{"b": 2}]}
    assert render("x: {{ .Values.a }}\n", values) == "x: 1\n"
    each = "{{- range .Values.list }}\ny: {{ .b }} {{ $.Values.a }}\n{{- end }}\n"
    assert render(each, values) == "y: 2 1\n"
    for bad in ("{{ .Values.no }}", "{{ .Values.a | quote }}", "{{ .b }}", "{{ include 1 }}"):
        with pytest.raises(ValueError, match=r"no value|not understood|nothing here"):
            render(bad, values)
    with pytest.raises(ValueError, match="nothing here"):
        render(each.replace("$.Values.a", ".Values.a"), values)


def test_the_chart_has_no_file_that_is_not_rendered() -> None:
    assert {file.suffix for file in (CHART / "templates").iterdir()} == {".yaml"}
