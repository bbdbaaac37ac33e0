"""The stubs are what `make protos` generates, and they say what the store interface says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lunmesh.worker.v2 import worker_pb2

from workers.store import IoKind, StoreStatus

ROOT = Path(__file__).resolve().parents[2]


def test_stubs_are_what_the_protos_generate(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON_BIN": sys.executable}
    subprocess.run([ROOT / "tools/protos.sh", tmp_path], check=True, env=environment, timeout=60)
    generated = {p.relative_to(tmp_path): p.read_text() for p in tmp_path.rglob("*.py*")}
    kept = ROOT / "proto/python"
    committed = {
        p.relative_to(kept): p.read_text() for p in kept.rglob("*.py*") if p.suffix != ".pyc"
    }
    assert committed == generated


def test_status_maps_one_to_one_to_the_store() -> None:
    names = {name.removeprefix("STATUS_") for name in worker_pb2.Status.DESCRIPTOR.values_by_name}
    assert names - {"UNSPECIFIED"} == {status.name for status in StoreStatus}


def test_kind_maps_one_to_one_to_the_store() -> None:
    names = {name.removeprefix("KIND_") for name in worker_pb2.Kind.DESCRIPTOR.values_by_name}
    assert names - {"UNSPECIFIED"} == {kind.name for kind in IoKind}
