"""The compiled build (setup.py), for tests and benchmarks that serve with it."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sysconfig
from pathlib import Path

from tests.support.lunmesh_server import PROJECT_ROOT

PACKAGES = PROJECT_ROOT / "build" / "compiled"


COMPILERS = ("cc", "gcc", "clang")


def find_compiler() -> str | None:
    """The C compiler of this machine."""
    return next((found for name in COMPILERS if (found := shutil.which(name))), None)


def missing() -> str:
    """Why it cannot be built; nothing, if it can."""
    if find_compiler() is None:
        return "the compiled build: no C compiler: apt-get install gcc libc6-dev"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "the compiled build: no headers of Python: apt-get install python3-dev"
    return ""


@functools.cache
def compiled_packages() -> Path:
    """Where it is, of the source as it stands.  Raises subprocess.CalledProcessError."""
    subprocess.run(["make", "--silent", "-C", PROJECT_ROOT, "compiled"], check=True, stdout=2)
    return PACKAGES
