"""podman and buildah in a store of their own, and the images of the tests.

    with Engine() as engine:
        engine.build_images()
        engine.podman("run", "-d", "--name", "a", IMAGE)

The base image is made by debootstrap, once: it stays in the user's cache folder, as do the wheels
that go into the image, and Debian's Redis and Prometheus on that base.  All else is below one
temporary folder, and ends with the engine.
Nothing here depends on pytest.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

PROJECT_ROOT: Final = Path(__file__).resolve().parents[2]
SUITE: Final = "bookworm"
PYTHON: Final = "3.11"  # of that suite
BASE: Final = "localhost/lunmesh-base"
IMAGE: Final = "localhost/lunmesh"
SERVICES: Final = "localhost/lunmesh-services"
REDIS_IMAGE: Final = "localhost/lunmesh-redis"
PROMETHEUS_IMAGE: Final = "localhost/lunmesh-prometheus"
ALERTMANAGER_IMAGE: Final = "localhost/lunmesh-alertmanager"
# pip judges "python_full_version < 3.11.3" (redis) by the Python that it runs on: async-timeout.
WHEELS: Final = (".", "setuptools", "async-timeout", "mypy")
TOOLS: Final = ("podman", "buildah", "podman-compose", "runc", "debootstrap", "iptables")

# Debian's packages of what compose.yaml has ready-made images of, and what those are to it.
SERVICES_RECIPE: Final = f"""\
FROM {BASE}
RUN groupadd --gid 999 redis \\
    && useradd --uid 999 --gid 999 --no-create-home --home-dir /data redis \\
    && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \\
        --no-install-recommends redis-server prometheus prometheus-alertmanager \\
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /usr/share/javascript \\
    && install -d -o 999 -g 999 /data \\
    && install -d -o nobody -g nogroup /prometheus /alertmanager
"""
SERVICE_RECIPES: Final = {
    REDIS_IMAGE: "USER 999:999\nVOLUME /data\n",
    PROMETHEUS_IMAGE: 'USER nobody\nVOLUME /prometheus\nENTRYPOINT ["prometheus"]\n',
    ALERTMANAGER_IMAGE: (
        'USER nobody\nVOLUME /alertmanager\nENTRYPOINT ["prometheus-alertmanager"]\n'
    ),
}

# crun refuses a hybrid tree of cgroups; raising limits is not everywhere permitted.
CONTAINERS_CONF: Final = """\
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
[containers]
log_driver = "k8s-file"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
"""
STORAGE_CONF: Final = """\
[storage]
driver = "overlay"
graphroot = "{folder}/root"
runroot = "{folder}/run"
"""


class ContainerError(Exception):
    """A command failed; carries the end of what it printed."""


def missing() -> str | None:
    """Why no container can be run here, or None."""
    if os.geteuid() != 0:
        return "containers need root here: networks of one's own, and debootstrap"
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    absent = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (tests/debian-packages.sh installs them)"
    return None


def _run(command: list[str], timeout: float, env: dict[str, str] | None = None) -> str:
    """What it prints on standard output."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout, env=env,
            stdin=subprocess.DEVNULL, cwd=PROJECT_ROOT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as exc:
        raise ContainerError(f"{' '.join(command[:3])} took more than {timeout} s") from exc
    if done.returncode:
        said = (done.stdout + done.stderr)[-3000:]
        raise ContainerError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
    return done.stdout


def _cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lunmesh"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _base_archive() -> Path:
    """A minimal Debian with Python, as debootstrap makes it: a minute or two, the first time."""
    archive = _cache() / f"base-{SUITE}.tar"
    if not archive.exists():
        with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
            tree, whole = Path(scratch, "tree"), Path(scratch, "whole.tar")
            packages = "--include=ca-certificates,python3,python3-venv"
            _run(["debootstrap", "--variant=minbase", packages, SUITE, str(tree)], 500)
            shutil.rmtree(tree / "var/cache/apt/archives")
            (tree / "var/cache/apt/archives/partial").mkdir(parents=True)
            _run(["tar", "-C", str(tree), "-cf", str(whole), "."], 120)
            aside = archive.with_suffix(f".{os.getpid()}")
            shutil.copyfile(whole, aside)
            aside.rename(archive)  # never half of one
    return archive


def _wheels() -> Path:
    """What the image's Python installs, for the constraints as they are."""
    wanted = (PROJECT_ROOT / "pyproject.toml").read_bytes()
    wanted += (PROJECT_ROOT / "constraints.txt").read_bytes() + " ".join(WHEELS).encode()
    folder = _cache() / f"wheels-{hashlib.sha256(wanted).hexdigest()[:12]}"
    if not folder.exists():
        aside = folder.with_suffix(f".{os.getpid()}")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "-c", "constraints.txt"]
        pip += ["--python-version", PYTHON, "--only-binary=:all:", "-d", str(aside)]
        _run([*pip, *WHEELS], 300)
        aside.rename(folder)
    return folder


class Engine:
    """As a context: nothing of it is left, containers, images, networks and volumes."""

    def __init__(self) -> None:
        # podman wants a short path.
        self.folder = Path(tempfile.mkdtemp(prefix="lm-", dir="/var/tmp"))
        environment = dict(os.environ)
        environment["PATH"] = f"{environment.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        for name, text in (("containers", CONTAINERS_CONF), ("storage", STORAGE_CONF)):
            file = self.folder / f"{name}.conf"
            file.write_text(text.format(folder=self.folder))
            variable = "CONTAINERS_CONF" if name == "containers" else "CONTAINERS_STORAGE_CONF"
            environment[variable] = str(file)
        self._env = environment

    def podman(self, *args: str, timeout: float = 60) -> str:
        """What podman prints; raises ContainerError where it fails."""
        return _run(["podman", *args], timeout, self._env).strip()

    def compose(self, file: Path, *args: str, env: dict[str, str]) -> str:
        """podman-compose, with ``env`` for the variables in the file."""
        command = ["podman-compose", "-f", str(file), *args]
        return _run(command, 120, {**self._env, **env})

    def build_images(self) -> None:
        """BASE, IMAGE by the project's recipe, and those of SERVICE_RECIPES.

        Of all runs on this machine one fills the cache; the others wait, and find it full.
        """
        with open(_cache() / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._build_images()

    def _build_images(self) -> None:
        self.podman("import", "--quiet", str(_base_archive()), BASE, timeout=120)
        pip_conf = self.folder / "pip.conf"
        pip_conf.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        self._bud(
            "--build-arg", f"BASE={BASE}", "--secret", f"id=pip,src={pip_conf}",
            "--volume", f"{_wheels()}:/wheels:ro", "-f", "deploy/container/Containerfile",
            "-t", IMAGE, str(PROJECT_ROOT),
        )  # fmt: skip
        self._services_image()
        for image, rest in SERVICE_RECIPES.items():
            self._bud_text(image, f"FROM {SERVICES}\n{rest}")

    def _services_image(self) -> None:
        """SERVICES, from the cache or else from the Debian archive."""
        made = hashlib.sha256(SERVICES_RECIPE.encode()).hexdigest()[:12]
        archive = _cache() / f"services-{SUITE}-{made}.tar"
        if archive.exists():
            self.podman("load", "--quiet", "--input", str(archive), timeout=120)
            return
        self._bud_text(SERVICES, SERVICES_RECIPE)
        aside = archive.with_suffix(f".{os.getpid()}")
        self.podman("save", "--quiet", "--output", str(aside), SERVICES, timeout=120)
        aside.rename(archive)  # never half of one

    def _bud_text(self, image: str, text: str) -> None:
        recipe = self.folder / "recipe" / "Containerfile"
        recipe.parent.mkdir(exist_ok=True)
        recipe.write_text(text)
        self._bud("-f", str(recipe), "-t", image, str(recipe.parent))

    def _bud(self, *args: str) -> None:
        # Of the two formats, docker's knows health checks.
        command = ["buildah", "bud", "--isolation", "chroot", "--format", "docker", *args]
        _run(command, 300, self._env)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        # All at once, and killed: a container that waits for one that is gone would take its time.
        for command in (
            ["kill", "--all", "--signal", "KILL"],
            ["rm", "--all", "--force", "--time", "0", "--volumes"],
            ["volume", "rm", "--all", "--force"],
            ["network", "prune", "--force"],
            ["rmi", "--all", "--force"],
        ):
            with contextlib.suppress(ContainerError):
                self.podman(*command)
        with contextlib.suppress(ContainerError):
            _run(["umount", str(self.folder / "root" / "overlay")], 30)
        shutil.rmtree(self.folder, ignore_errors=True)
