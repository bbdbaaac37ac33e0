"""For every test: hypothesis has no deadlines (machines are noisy); in CI always the same examples.

``ceph`` is one real cluster for all tests of a run that ask for it; it takes 4 seconds to start.
``redis`` is a real Redis for each test; it takes 20 milliseconds.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.ceph_cluster import CephCluster, find_ceph
from tests.support.redis_server import RedisServer

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A run in a shell's background ignores Ctrl-C; what the tests start shall not inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("lunmesh", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("lunmesh")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in this same hook, and only once
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What goes to one process where several run: a file, and all that has a machine of its own.

    Two virtual machines, or one beside containers, are too slow for each other on two processors.
    """
    for item in items:
        heavy = any(item.get_closest_marker(name) for name in ("vm", "containers"))
        file = item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group("machines" if heavy else file))


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CephCluster]:
    """A running cluster.  Each test makes pools of its own, and leaves the flags as they were."""
    missing = find_ceph()
    if missing is not None:
        pytest.skip(missing)
    with CephCluster(tmp_path_factory.mktemp("ceph")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def ceph_pool(ceph: CephCluster) -> str:
    """A pool for tests that keep to their own volumes: making one takes a second."""
    return ceph.create_pool()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A running Redis on a Unix socket, empty; it keeps nothing across a restart."""
    with RedisServer(tmp_path / "redis") as server:
        yield server
