"""Portals, iSCSI names, volumes and CHAP users, good and bad."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from target.config import ChapUser, Portal, VolumeConfig
from target.config.chap import parse_chap
from target.config.values import (
    is_loopback,
    parse_iscsi_name,
    parse_portal,
    parse_volume,
)

HERE = Path("/base")


@pytest.mark.parametrize(
    ("text", "portal"),
    [
        ("127.0.0.1:3260", Portal("127.0.0.1", 3260)),
        ("127.0.0.1", Portal("127.0.0.1", 3260)),
        ("0.0.0.0:0", Portal("0.0.0.0", 0)),
        ("storage-1.example.org:860", Portal("storage-1.example.org", 860)),
        ("localhost", Portal("localhost", 3260)),
        ("[::1]:3260", Portal("::1", 3260)),
        ("[::]", Portal("::", 3260)),
        ("[fe80::1%eth0]:3260", Portal("fe80::1%eth0", 3260)),
    ],
)
def test_a_portal(text: str, portal: Portal) -> None:
    assert parse_portal(text) == portal
    assert parse_portal(str(portal)) == portal


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":3260",
        "host:",
        "host:x",
        "host:65536",
        "host:-1",
        "host:٣",
        "host:000003260",
        "::1",
        "::1:3260",
        "[::1",
        "[::1]3260",
        "[]:3260",
        "[host]:3260",
        "[::1]:",
        "256.1.1.1:3260",
        "1.2.3:3260",
        "ho st:3260",
        "host/x:3260",
        "*:3260",
        "-h:1",
    ],
)
def test_a_bad_portal(text: str) -> None:
    with pytest.raises(ValueError, match="bad portal"):
        parse_portal(text)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("[::]", False),
        ("10.0.0.1", False),
        ("example.org", False),
    ],
)
def test_who_reaches_a_portal(text: str, loopback: bool) -> None:
    assert is_loopback(parse_portal(text)) is loopback


@pytest.mark.parametrize(
    "name",
    [
        "iqn.2026-11.io.lunmesh:target",
        "iqn.2001-04.com.example",
        "iqn.2001-04.com.example:storage.disk-1:a",
        "iqn.1992-01.x:" + "a" * 209,
        "eui.02004567A425678D",
        "naa.52004567BA64678D",
        "naa.62004567BA64678D0123456789ABCDEF",
    ],
)
def test_an_iscsi_name(name: str) -> None:
    assert parse_iscsi_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "iqn",
        "iqn.",
        "iqn.2026-13.io.lunmesh",
        "iqn.2026-00.io.lunmesh",
        "iqn.26-11.io.lunmesh",
        "iqn.2026-11",
        "iqn.2026-11.",
        "iqn.2026-11.io.lunmesh:",
        "iqn.2026-11.io.lunmesh:a b",
        "iqn.2026-11.io.lunmesh:a,1",
        "iqn.2026-11.io.lunmesh:ä",
        "iqn.2026-11.io.lunmesh:Target",
        "iqn.2026-11.io.lunmesh:target\n",
        "iqn.1992-01.x:" + "a" * 210,
        "eui.02004567A425678",
        "eui.02004567A425678G",
        "naa.52004567BA64678D0",
        "target",
    ],
)
def test_a_bad_iscsi_name(name: str) -> None:
    with pytest.raises(ValueError, match="bad iSCSI name"):
        parse_iscsi_name(name)


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        ("disk0=1G", VolumeConfig(name="disk0", size_bytes=1 << 30)),
        (
            "d=1T,block=4096,chunk=64K,readonly",
            VolumeConfig(
                name="d", size_bytes=1 << 40, block_bytes=4096, chunk_bytes=65536, readonly=True
            ),
        ),
        ("d=512", VolumeConfig(name="d", size_bytes=512)),
        ("d=/srv/a=b.img", VolumeConfig(name="d", path=Path("/srv/a=b.img"))),
        ("d=./a.img,readonly", VolumeConfig(name="d", path=HERE / "a.img", readonly=True)),
        ("Root_1.x-y=/dev/sdb", VolumeConfig(name="Root_1.x-y", path=Path("/dev/sdb"))),
    ],
)
def test_a_volume(text: str, volume: VolumeConfig) -> None:
    assert parse_volume(text, HERE) == volume


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "write NAME=SIZE"),
        ("disk0", "write NAME=SIZE"),
        ("=1G", "bad volume name"),
        ("a/b=1G", "bad volume name"),
        ("../x=1G", "bad volume name"),
        (".x=1G", "bad volume name"),
        ("a b=1G", "bad volume name"),
        ("ä=1G", "bad volume name"),
        ("a\n=1G", "bad volume name"),
        ("a" * 65 + "=1G", "bad volume name"),
        ("d=", "bad size"),
        ("d=big", "bad size"),
        ("d=image.raw", "bad size"),
        ("d=1GB", "write G or GiB"),
        ("d=-1G", "bad size"),
        ("d=511", "smaller than one block"),
        ("d=2K,block=4096", "smaller than one block"),
        ("d=1000", "no multiple of its 512-byte blocks"),
        ("d=1G,block=1024", "512 or 4096"),
        ("d=1G,block=x", "512 or 4096"),
        ("d=1G,block", "block=VALUE"),
        ("d=1G,chunk=1000K", "power of two"),
        ("d=1G,chunk=32K", "power of two"),
        ("d=1G,chunk=128M", "power of two"),
        ("d=1G,chunk=x", "bad size"),
        ("d=1G,readonly=yes", "readonly alone"),
        ("d=1G,readnoly", "did you mean 'readonly'"),
        ("d=1G,", "unknown option ''"),
        ("d=/a,b.img", "unknown option 'b.img'"),
        ("d=/a\0b", "NUL"),
    ],
)
def test_a_bad_volume(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match="volume") as info:
        parse_volume(text, HERE)
    assert problem in str(info.value)


def test_a_chap_user_keeps_its_secret() -> None:
    user = parse_chap("alice:correct:horse battery")
    assert user == ChapUser("alice", b"correct:horse battery")
    assert "horse" not in repr(user)
    assert "horse" not in str(user)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "zebrazebrazebra",
        ":zebrazebrazebra",
        "alice:",
        "alice:zebra",
        "alice:" + "zebra" * 60,
        "alice:zebra\x00zebrazebra",
        "alice:zebra\nzebrazebra",
        "al\nice:zebrazebrazebra",
        "a" * 256 + ":zebrazebrazebra",
    ],
)
def test_a_bad_chap_user_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ValueError, match="bad CHAP") as info:
        parse_chap(text)
    assert "zebra" not in str(info.value)


@given(st.text(max_size=40))
def test_parsers_return_or_raise_value_error(text: str) -> None:
    for parse in (parse_portal, parse_iscsi_name, parse_chap):
        with contextlib.suppress(ValueError):
            parse(text)
    with contextlib.suppress(ValueError):
        parse_volume(text, HERE)
