"""Ceph's Python module, found and connected.

``rados`` belongs to the distribution (``apt install python3-rados``), not to a package index.  It
is looked for only when a pool is asked for, and nothing else of the place where it lies is taken.
"""

from __future__ import annotations

import errno
import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any, Final

# Where the distributions put it; a virtual environment does not look there.
SYSTEM_PACKAGES: Final = (
    "/usr/lib/python3/dist-packages",
    f"/usr/lib64/python3.{sys.version_info.minor}/site-packages",
    f"/usr/lib/python3.{sys.version_info.minor}/site-packages",
)
MON_SECONDS: Final = 10  # for the monitors to answer: connecting, commands
# librados throttles by blocking its caller: its bounds are beyond what a worker can have in flight.
INFLIGHT_OPS: Final = 8192
INFLIGHT_BYTES: Final = 2 << 30
SETTINGS: Final = {
    "client_mount_timeout": str(MON_SECONDS),
    "rados_mon_op_timeout": str(MON_SECONDS),
    "rados_osd_op_timeout": "0",  # workers/rados_client.py, rule 2
    "objecter_inflight_ops": str(INFLIGHT_OPS),
    "objecter_inflight_op_bytes": str(INFLIGHT_BYTES),
    "log_to_stderr": "false",  # what goes wrong is said by us
    "err_to_stderr": "false",
}


class RadosError(Exception):
    """The pool cannot be used; one line."""


def import_rados() -> Any:
    """Ceph's own module, and nothing else of where it lies; raises RadosError."""
    known = sys.modules.get("rados")
    if known is not None:
        return known
    spec = PathFinder.find_spec("rados") or PathFinder.find_spec("rados", [*SYSTEM_PACKAGES])
    if spec is None or spec.loader is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise RadosError(
            f"the rados store needs Ceph's Python module, which is not there for Python {version}: "
            "apt install python3-rados"
        )
    module = module_from_spec(spec)
    sys.modules["rados"] = module
    try:
        spec.loader.exec_module(module)
    except ImportError as exc:
        del sys.modules["rados"]
        raise RadosError(f"the rados store needs Ceph's Python module: {exc}") from exc
    return module


def open_pool(pool: str, conf: Path, user: str) -> tuple[Any, Any]:
    """(Rados, Ioctx), connected; blocks, with a bound.  Raises RadosError."""
    rados = import_rados()
    if not os.access(conf, os.R_OK):
        raise RadosError(f"cannot read {conf}, the Ceph configuration")
    cluster = None
    try:
        cluster = rados.Rados(conffile=str(conf), rados_id=user or None)
        for name, value in SETTINGS.items():
            cluster.conf_set(name, value)
        cluster.connect()
    except Exception as exc:
        raise RadosError(f"{conf}: cannot reach the cluster: {_reason(exc)}") from exc
    try:
        ioctx = cluster.open_ioctx(pool)
        ioctx.set_osdmap_full_try()
    except Exception as exc:
        cluster.shutdown()
        if getattr(exc, "errno", None) == errno.ENOENT:
            raise RadosError(f"the cluster of {conf} has no pool {pool!r}") from exc
        raise RadosError(f"pool {pool!r} of {conf}: {_reason(exc)}") from exc
    return cluster, ioctx


def _reason(exc: Exception) -> str:
    code = getattr(exc, "errno", None)
    return os.strerror(code) if isinstance(code, int) else str(exc)
