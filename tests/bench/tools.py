"""The programs in C of this bench, built when they are needed."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

from tests.support.compiled import find_compiler
from tests.support.lunmesh_server import PROJECT_ROOT

SOURCES = Path(__file__).parent / "c"
FOLDER = PROJECT_ROOT / "build" / "bench" / "bin"


def missing() -> str:
    """Why they cannot be built; nothing, if they can."""
    return "" if find_compiler() else "load, echo: no C compiler: apt-get install gcc libc6-dev"


@functools.cache
def built(name: str) -> Path:
    """The program of ``c/NAME.c``.  Raises subprocess.CalledProcessError."""
    compiler = find_compiler()
    assert compiler is not None, "asked for by missing()"
    FOLDER.mkdir(parents=True, exist_ok=True)
    program = FOLDER / name
    source = SOURCES / f"{name}.c"
    subprocess.run([compiler, "-O2", "-march=native", "-o", program, source], check=True)
    return program
