"""Sizes as people write them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from target.config.sizes import SIZE_MAX, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("1", 1),
        ("512", 512),
        ("512B", 512),
        ("1K", 1024),
        ("1k", 1024),
        ("64KiB", 65536),
        ("512M", 512 << 20),
        ("1G", 1 << 30),
        ("1GiB", 1 << 30),
        ("1gib", 1 << 30),
        ("1 GiB", 1 << 30),
        (" 1G ", 1 << 30),
        ("1.5G", 3 << 29),
        ("0.5K", 512),
        ("1T", 1 << 40),
        ("2P", 2 << 50),
        ("7E", 7 << 60),
        (4096, 4096),
    ],
)
def test_reads(text: str | int, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "G",
        "iB",
        "1Q",
        "1Gi",
        "1GB",  # 10^9 or 2^30? a size is not guessed
        "1MB",
        "1 G B",
        "-1G",
        "+1G",
        "1e9",
        "1,5G",
        "0",
        "0G",
        "0.0001K",
        "1.5",
        "8E",
        "99999999999999999999G",
        "1G1M",
        "١G",
        "0x10",
        "inf",
        "nan",
        "9" * 5000,
        0,
        -5,
        SIZE_MAX + 1,
    ],
)
def test_refuses(text: str | int) -> None:
    with pytest.raises(ValueError, match="bad size") as info:
        parse_size(text)
    assert "\n" not in str(info.value)
    assert len(str(info.value)) < 200


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (1, "1 bytes"),
        (1000, "1000 bytes"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (1 << 30, "1 GiB"),
        (3 << 39, "1.5 TiB"),
        (7 << 60, "7 EiB"),
    ],
)
def test_says(nbytes: int, text: str) -> None:
    assert format_size(nbytes) == text


@given(st.integers(1, SIZE_MAX))
def test_bytes_are_exact(nbytes: int) -> None:
    assert parse_size(str(nbytes)) == parse_size(nbytes) == nbytes


@given(st.text(max_size=30))
def test_never_anything_but_a_size_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert 0 < parse_size(text) <= SIZE_MAX
