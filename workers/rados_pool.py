"""A connection to a Ceph cluster, and one pool of it: what asks the monitors, or blocks."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from workers.librados import SONAME, Librados, check, load

MON_SECONDS: Final = 10  # for the monitors to answer: connecting, commands
FSID_CHARS: Final = 36
# Bounds of librados, which blocks its caller there: beyond ours (workers/rados_completions.py).
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


def load_librados() -> Librados:
    """The library; raises RadosError."""
    try:
        return load()
    except OSError as exc:
        raise RadosError(
            f"the rados store needs Ceph's {SONAME}: apt install librados2 ({exc})"
        ) from exc
    except AttributeError as exc:
        raise RadosError(f"the rados store needs a newer {SONAME}: {exc}") from exc


class RadosPool:
    """Connected, with the pool open.  All but ``ioctx`` blocks, with a bound of its own."""

    def __init__(self, pool: str, conf: Path, user: str = "") -> None:
        """Raises RadosError."""
        self.librados = load_librados()
        if not os.access(conf, os.R_OK):
            raise RadosError(f"cannot read {conf}, the Ceph configuration")
        self._slow = self.librados.slow
        self._cluster = ctypes.c_void_p()
        self._connect(conf, user)
        self.ioctx = ctypes.c_void_p()
        try:
            check(
                self._slow.rados_ioctx_create(
                    self._cluster, pool.encode(), ctypes.byref(self.ioctx)
                )
            )
            self.librados.quick.rados_set_osdmap_full_try(self.ioctx)
            self.instance = self._address()
            self.store_id = f"{self._fsid()}/{self.librados.quick.rados_ioctx_get_id(self.ioctx)}"
        except OSError as exc:
            self._slow.rados_shutdown(self._cluster)
            if exc.errno == errno.ENOENT:
                raise RadosError(f"the cluster of {conf} has no pool {pool!r}") from exc
            raise RadosError(f"pool {pool!r} of {conf}: {exc.strerror}") from exc

    def _connect(self, conf: Path, user: str) -> None:
        slow, cluster = self._slow, self._cluster
        try:
            check(slow.rados_create(ctypes.byref(cluster), user.encode() or None))
            try:
                check(slow.rados_conf_read_file(cluster, os.fsencode(conf)))
                for name, value in SETTINGS.items():
                    check(slow.rados_conf_set(cluster, name.encode(), value.encode()))
                check(slow.rados_connect(cluster))
            except OSError:
                slow.rados_shutdown(cluster)
                raise
        except OSError as exc:
            raise RadosError(f"{conf}: cannot reach the cluster: {exc.strerror}") from exc

    def _fsid(self) -> str:
        text = ctypes.create_string_buffer(FSID_CHARS + 1)
        check(self._slow.rados_cluster_fsid(self._cluster, text, len(text)))
        return text.value.decode()

    def _address(self) -> str:
        """Of this client, as `ceph osd blocklist add` takes it."""
        found = ctypes.c_void_p()
        check(self._slow.rados_getaddrs(self._cluster, ctypes.byref(found)))
        try:
            return ctypes.string_at(found.value or 0).decode()
        finally:
            self._slow.rados_buffer_free(found)

    def latest_map(self) -> None:
        """Operations from now on are behind all that the monitors decided.  Raises OSError."""
        check(self._slow.rados_wait_for_latest_osdmap(self._cluster))

    def blocklist(self, instance: str, seconds: int) -> None:
        """Shut out a client.  Raises OSError."""
        check(self._slow.rados_blocklist_add(self._cluster, instance.encode(), seconds))

    def names(self) -> Iterator[str]:
        """Of all objects of the pool.  Raises OSError."""
        listing, name = ctypes.c_void_p(), ctypes.c_char_p()
        check(self._slow.rados_nobjects_list_open(self.ioctx, ctypes.byref(listing)))
        try:
            while True:
                result = self._slow.rados_nobjects_list_next(
                    listing, ctypes.byref(name), None, None
                )
                if result == -errno.ENOENT:
                    return
                check(result)
                yield (name.value or b"").decode("utf-8", "replace")
        finally:
            self._slow.rados_nobjects_list_close(listing)

    def close(self) -> None:
        """Leave the cluster; operations in flight have been cancelled."""
        self._slow.rados_ioctx_destroy(self.ioctx)
        self._slow.rados_shutdown(self._cluster)
