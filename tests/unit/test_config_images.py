"""Images that are served as they are, and those that are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from target.config import ConfigError, VolumeConfig, image_bytes


def volume_of(path: Path, **options: object) -> VolumeConfig:
    return VolumeConfig(name="a", path=path, **options)  # type: ignore[arg-type]


def test_an_image(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(4096))
    assert image_bytes(volume_of(path)) == 4096
    assert image_bytes(volume_of(path, block_bytes=4096)) == 4096


@pytest.mark.parametrize(
    ("nbytes", "block", "problem"),
    [
        (0, 512, "less than one block of 512"),
        (511, 512, "less than one block of 512"),
        (1000, 512, "no multiple of its 512-byte blocks; enlarge it with truncate -s 1024"),
        (4608, 4096, "no multiple of its 4096-byte blocks; enlarge it with truncate -s 8192"),
    ],
)
def test_an_image_of_a_bad_size(tmp_path: Path, nbytes: int, block: int, problem: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(nbytes))
    with pytest.raises(ConfigError, match=problem):
        image_bytes(volume_of(path, block_bytes=block))


def test_an_image_that_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, problem in (
        (tmp_path / "missing", "No such file"),
        (tmp_path, "neither a file nor a block device"),
        (tmp_path / "fifo", "neither a file nor a block device"),
    ):
        with pytest.raises(ConfigError, match=problem):
            image_bytes(volume_of(path))
