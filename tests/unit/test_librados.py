"""librados is loaded when a pool is asked for, and what is said when it is not there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers import librados
from workers.rados_client import RadosClient
from workers.rados_pool import RadosError, load_librados


@pytest.fixture(autouse=True)
def not_loaded_yet() -> Iterator[None]:
    librados.load.cache_clear()
    yield
    librados.load.cache_clear()


def test_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(librados, "SONAME", "librados-not-there.so.2")
    with pytest.raises(RadosError, match="apt install librados2"):
        load_librados()


def test_a_library_without_what_is_needed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(librados, "SONAME", "libc.so.6")
    with pytest.raises(RadosError, match=r"newer librados.*rados_aio_create_completion2"):
        load_librados()


def test_an_attempt_to_connect_that_fails_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(librados, "SONAME", "librados-not-there.so.2")
    before = threading.active_count()
    with pytest.raises(RadosError):
        asyncio.run(RadosClient.connect("pool", Path("ceph.conf")))
    assert threading.active_count() == before
