"""The options of a node that is one of several."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from urllib.parse import parse_qsl, urlsplit

from target.config.merge import Merged
from target.config.model import ClusterConfig, VolumeConfig
from target.config.scalars import seconds

ENV_REDIS = "LUNMESH_REDIS"
LEASE_SECONDS_DEFAULT = 5.0
WAIT_SECONDS_DEFAULT = 5.0

_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")
_ESCAPES = "special characters of a password are written as %XX"
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")  # as redis-py has them


def cluster(merged: Merged) -> ClusterConfig | None:
    """None without ``redis``; the other options need it."""
    url = merged.one("redis", redis_url, None)
    if url is None:
        for name in ("node-id", "lease", "cluster-wait"):
            if merged.source(name) is not None:
                raise merged.fail(name, "needs redis")
        return None
    return ClusterConfig(
        url=url,
        node_id=merged.one("node-id", _node_id, None),
        lease_seconds=merged.one("lease", seconds(1), LEASE_SECONDS_DEFAULT),
        wait_seconds=merged.one("cluster-wait", seconds(0.1), WAIT_SECONDS_DEFAULT),
    )


def check_volumes(merged: Merged, volumes: Sequence[VolumeConfig]) -> None:
    """What several nodes serve must be where all of them reach it.  Raises ConfigError."""
    if merged.source("redis") is None:
        return
    if merged.source("worker") is None:
        raise merged.fail("redis", "needs worker: other nodes do not reach disks of this machine")
    for volume in volumes:
        if volume.path is not None:
            raise merged.fail(
                "volume", f"{volume.name} is an image, which other nodes do not reach"
            )


def _node_id(given: str) -> str:
    if not _NODE_ID.fullmatch(given):
        raise ValueError(f"must be letters, digits, '.', '_' and '-', at most 63, not {given!r}")
    return given


def redis_url(given: str) -> str | None:
    """Whether it can be one is said here; the rest when it is used.  Never repeated: secrets."""
    try:
        parts = urlsplit(given)
    except ValueError:  # its text has what was given
        raise ValueError(f"is no URL: {_ESCAPES}") from None
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"must begin with one of {', '.join(s + '://' for s in _SCHEMES)}")
    path = "" if parts.scheme == "unix" else parts.path
    if "@" in path + parts.fragment:  # what was read as these begins in a password
        raise ValueError(f"has an @ behind / or #: {_ESCAPES}")
    _check_query(parts.scheme, parts.query)
    if parts.scheme == "unix":
        if not parts.path:
            raise ValueError("unix:// needs the path of a socket")
        return given
    hosts = parts.netloc.rpartition("@")[2].split(",")
    try:
        named = [urlsplit(f"//{host}") for host in hosts]
        bad = any(not one.hostname or one.port == 0 for one in named)
    except ValueError:
        bad = True
    if bad:
        raise ValueError("must have HOST or HOST:PORT behind ://")
    if parts.scheme in ("redis", "rediss") and len(hosts) > 1:
        raise ValueError("takes one HOST:PORT: several are for redis+sentinel and redis+cluster")
    if parts.scheme in ("redis", "rediss"):
        _check_database(parts.path.strip("/") or "0")
    if parts.scheme == "redis+sentinel" and not parts.path.strip("/"):
        raise ValueError("redis+sentinel://HOST:PORT,.../SERVICE needs the service's name")
    return given


def redis_notes(merged: Merged) -> list[str]:
    """What deserves a warning."""
    source = merged.source("redis")
    if source is None or source.place("redis") != "--redis":
        return []
    if urlsplit(source.given("redis")).password is None:
        return []
    return [f"the password behind --redis shows in the process list: use {ENV_REDIS}"]


def _check_query(scheme: str, query: str) -> None:
    """What can be said behind ``?``.  Raises ValueError."""
    many = "+" in scheme
    said = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in said.items():
        if name == "db" and not many:
            _check_database(value)
        elif name == "tls" and many:
            if value not in ("0", "1"):
                raise ValueError("tls= takes 0 or 1")
        elif name in _FILES:
            if scheme != "rediss" and said.get("tls") != "1":
                raise ValueError(f"{name}= is for TLS: rediss://, or tls=1 for several servers")
            if not os.access(value, os.R_OK):
                raise ValueError(f"{name}= needs a file that can be read")
        elif "@" in query:  # it begins in a password
            raise ValueError(f"has an @ behind ?: {_ESCAPES}")
        else:
            raise ValueError(f"has {name}=, which {scheme}:// does not know")


def _check_database(given: str) -> None:
    """Messages and functions are of the whole server, whatever the database.  Raises ValueError."""
    if given != "0":
        raise ValueError(
            "must be database 0, and a Redis of its own for each cluster: nodes of two databases"
            " would hear each other (SWAPDB moves what is in another one)"
        )
