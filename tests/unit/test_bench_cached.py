"""The rows of `make bench` that want nothing cached: what is in memory is looked at, not hoped."""

from __future__ import annotations

import mmap
import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.bench import measure as measuring
from tests.bench.cached import cached_bytes, evict, warm
from tests.bench.clients import Run, Workload
from tests.bench.measure import measure
from tests.bench.rows import Row
from tests.bench.servers import Candidate, Endpoint

PAGES = 64
SIZE = PAGES * mmap.PAGESIZE
COLD = Row("cold", "load", Workload("read", 4096, 32, True), cached=False)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(os.urandom(SIZE - 1))  # the last page is not whole
    return path


def test_what_is_cached_can_be_thrown_out(image: Path) -> None:
    warm(image, 4096)
    assert cached_bytes(image) == SIZE
    assert evict(image) == 0
    assert cached_bytes(image) == 0
    with image.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
        os.pread(file.fileno(), mmap.PAGESIZE, 8 * mmap.PAGESIZE)
    assert cached_bytes(image) == mmap.PAGESIZE


def test_what_somebody_has_mapped_stays_and_is_told(image: Path) -> None:
    with (
        image.open("rb") as file,
        mmap.mmap(file.fileno(), 2 * mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ) as mapped,
    ):
        mapped.read()
        assert evict(image) >= 2 * mmap.PAGESIZE  # in one folio with others, perhaps


@pytest.mark.parametrize("stays", [0, 4096])
def test_a_row_whose_file_stays_cached_is_not_measured(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stays: int
) -> None:
    endpoint = Endpoint({4096: "iscsi://x"}, (os.getpid(),), {4096: (image,)})
    server = Candidate("any", "", lambda disks: nullcontext(endpoint))
    monkeypatch.setattr(
        measuring, "client_of", lambda name, url: lambda *about: lambda: Run(10, 1.0)
    )
    monkeypatch.setattr(measuring, "evict", lambda path: stays)
    results = measure(
        [server], [COLD], rounds=2, seconds=0, size=SIZE, folder=tmp_path, say=lambda text: None
    )
    assert len(results.samples["cold"]["any"]) == (0 if stays else 2)
    assert list(results.unmeasured) == (["cold"] if stays else [])
