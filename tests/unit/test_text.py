"""key=value text: pairs, values, bounds."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from target.iscsi import limits, text
from target.iscsi.errors import TextError

keys = st.from_regex(r"[A-Z][A-Za-z0-9.\-+@_]{0,62}", fullmatch=True)
values = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=80)
pairs = st.lists(st.tuples(keys, values), max_size=20)


@given(pairs)
def test_round_trip(sent: text.Pairs) -> None:
    assert text.decode(text.encode(sent)) == sent


@given(pairs, st.data())
def test_cut_anywhere_by_the_c_bit(sent: text.Pairs, data: st.DataObject) -> None:
    raw = text.encode(sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=5)))
    assembler = text.TextAssembler()
    at = 0
    for cut in cuts:
        assert assembler.add(raw[at:cut], continued=True) is None
        assert assembler.pending
        at = cut
    assert assembler.add(raw[at:], continued=False) == sent
    assert not assembler.pending


@given(st.binary(max_size=200))
def test_any_bytes_are_pairs_or_a_typed_error(raw: bytes) -> None:
    try:
        found = text.decode(raw)
    except TextError:
        return
    assert text.decode(text.encode(found)) == found


@pytest.mark.parametrize(
    "raw",
    [
        b"A=b",  # no NUL at the end
        b"A\0",  # no '='
        b"=b\0",  # no key
        b"1A=b\0",  # a key begins with a letter
        b"A B=c\0",
        b"A=\xff\xfe\0",  # not UTF-8
        b"A" * 64 + b"=b\0",
    ],
)
def test_malformed_text(raw: bytes) -> None:
    with pytest.raises(TextError):
        text.decode(raw)


def test_a_key_of_63_bytes_and_spare_nuls_are_fine() -> None:
    key = "K" * 63
    assert text.decode(b"\0" + key.encode() + b"=\0\0A==x\0") == [(key, ""), ("A", "=x")]


def test_the_bounds_of_a_text() -> None:
    assert len(text.decode(b"A=1\0" * limits.TEXT_KEYS_MAX)) == limits.TEXT_KEYS_MAX
    with pytest.raises(TextError):
        text.decode(b"A=1\0" * (limits.TEXT_KEYS_MAX + 1))
    with pytest.raises(TextError):
        text.decode(b"A=" + b"x" * limits.TEXT_REQUEST_BYTES_MAX + b"\0")


def test_the_bounds_of_a_continued_text() -> None:
    assembler = text.TextAssembler()
    for _ in range(8):
        assembler.add(b"x" * 8192, continued=True)
    with pytest.raises(TextError):
        assembler.add(b"x", continued=True)
    assembler = text.TextAssembler()
    for _ in range(limits.TEXT_REQUEST_PDUS_MAX):
        assembler.add(b"", continued=True)
    with pytest.raises(TextError):
        assembler.add(b"", continued=True)


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(16, 64))
def test_outgoing_text_is_cut_behind_pairs(sizes: list[int], size_max: int) -> None:
    raw = b"".join(b"x" * (size - 1) + b"\0" for size in sizes)
    outgoing = text.Outgoing(raw)
    parts = []
    while outgoing:
        parts.append(outgoing.take(size_max))
    assert b"".join(parts) == raw
    assert all(0 < len(part) <= size_max for part in parts)
    if all(size <= size_max for size in sizes):
        assert all(part.endswith(b"\0") for part in parts)
    assert outgoing.take(size_max) == b""


@pytest.mark.parametrize(
    ("value", "number"),
    [("0", 0), ("1", 1), ("65535", 65535), ("0x0", 0), ("0Xff", 255), ("0x00ff", 255)],
)
def test_numbers(value: str, number: int) -> None:
    assert text.number(value) == number


@pytest.mark.parametrize(
    "value",
    ["", "-1", "+1", "01", "1 ", "1.0", "0x", "x1", "1_0", "٣", "9" * 30, "0b1", str(2**64)],
)
def test_no_numbers(value: str) -> None:
    with pytest.raises(TextError):
        text.number(value)


def test_numbers_out_of_range() -> None:
    assert text.number("512", 512, 1024) == 512
    for value in ("511", "1025"):
        with pytest.raises(TextError):
            text.number(value, 512, 1024)


def test_ranges() -> None:
    assert text.number_range("1~0x10") == (1, 16)
    assert text.number_range("5~5") == (5, 5)
    for value in ("1", "2~1", "~1", "1~", "1~2~3"):
        with pytest.raises(TextError):
            text.number_range(value)


def test_booleans() -> None:
    assert text.boolean("Yes")
    assert not text.boolean("No")
    for value in ("yes", "NO", "", "True", "Yes "):
        with pytest.raises(TextError):
            text.boolean(value)


def test_lists() -> None:
    assert text.items("CRC32C,None") == ["CRC32C", "None"]
    assert len(text.items(",".join("a" * 64))) == 64
    assert text.items("b" * 255) == ["b" * 255]
    for value in ("", "a,", ",a", "a,,b", ",".join("a" * 65), "a," + "b" * 256):
        with pytest.raises(TextError):
            text.items(value)


@given(st.binary(min_size=1, max_size=64))
def test_binary_values(value: bytes) -> None:
    assert text.binary(text.from_binary(value), 64) == value
    assert text.binary("0X" + value.hex().upper(), 64) == value
    assert text.binary("0b" + base64.b64encode(value).decode(), 64) == value
    with pytest.raises(TextError):
        text.binary(text.from_binary(value), len(value) - 1)
    with pytest.raises(TextError):
        text.binary("0b" + base64.b64encode(value).decode(), len(value) - 1)


def test_half_a_byte_is_the_first_one() -> None:
    assert text.binary("0xabc", 2) == b"\x0a\xbc"


@pytest.mark.parametrize(
    "value", ["", "0x", "0b", "abcd", "0xzz", "0b====", "0bA", "0x 12", "0bA=A="]
)
def test_no_binary_values(value: str) -> None:
    with pytest.raises(TextError):
        text.binary(value, 64)


def test_names() -> None:
    assert text.iscsi_name("iqn.1994-05.com.example:x") == "iqn.1994-05.com.example:x"
    assert text.iscsi_name("é" * 111 + "x") == "é" * 111 + "x"
    for value in ("", "a b", "a\tb", "a\nb", "a" * 224, "é" * 112, "a,b"):
        with pytest.raises(TextError):
            text.iscsi_name(value)


def test_simple_values() -> None:
    assert text.simple("é" * 127) == "é" * 127
    with pytest.raises(TextError):
        text.simple("é" * 128)
