"""``lunmesh version``."""

from __future__ import annotations

import json
import platform
import ssl
from importlib.metadata import version

import target
from target.scsi import request

# What a bug report should say beside our own version.
LIBRARIES = ("uvloop", "crc32c", "msgspec", "structlog", "typer", "aiohttp", "grpcio", "redis")


def print_version(as_json: bool) -> None:
    """One line for people, more for programs."""
    if as_json:
        print(json.dumps(version_report(), indent=2))
    else:
        print(f"lunmesh {target.__version__}" + " (compiled)" * compiled())


def compiled() -> bool:
    """Whether the hot path is a C extension here (setup.py)."""
    return not str(request.__file__).endswith(".py")


def version_report() -> dict[str, object]:
    """What runs here."""
    return {
        "version": target.__version__,
        "compiled": compiled(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "openssl": ssl.OPENSSL_VERSION,
        "libraries": {name: version(name) for name in LIBRARIES},
    }
