"""Who logs in, by the first bytes; and which process that makes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from target.iscsi.requests import LoginRequest, NopOut
from target.processes.first_pdu import FIRST_PDU_BYTES_MAX, initiator_of
from target.rendezvous import process_of

NAME = "iqn.2026-11.io.lunmesh.test:one"
TEXT = f"InitiatorName={NAME}\0SessionType=Discovery\0".encode()


def login(text: bytes, *, continued: bool = False) -> bytes:
    request = LoginRequest(
        isid=b"\x80\0\0\0\0\1",
        tsih=0,
        initiator_task_tag=1,
        cid=0,
        cmd_sn=1,
        exp_stat_sn=0,
        csg=1,
        nsg=3,
        transit=not continued,
        continued=continued,
        data=text,
    )
    return request.encode_header() + text + bytes(-len(text) % 4)


def test_a_name_is_known_when_all_of_it_is_there_and_not_before() -> None:
    whole = login(TEXT)
    data_ends = 48 + len(TEXT)
    for size in range(data_ends):
        assert initiator_of(whole[:size]) is None, size
    for size in range(data_ends, len(whole) + 1):
        assert initiator_of(whole[:size]) == NAME
    assert initiator_of(whole + b"more") == NAME


@pytest.mark.parametrize("end", range(len(TEXT)))
def test_a_text_that_goes_on_may_be_cut_anywhere(end: int) -> None:
    """A name whose end is in the next PDU is not taken for the whole of it."""
    named = end > TEXT.index(b"\0")
    assert initiator_of(login(TEXT[:end], continued=True)) == (NAME if named else "")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01",
        NopOut(
            lun=bytes(8),
            initiator_task_tag=1,
            target_transfer_tag=0xFFFFFFFF,
            cmd_sn=1,
            exp_stat_sn=1,
        ).encode_header(),
        login(b"SessionType=Discovery\0"),
        login(b"InitiatorName=\0"),
        login(b"InitiatorName=iqn.a b\0"),
        login(b"InitiatorName=" + b"x" * 300 + b"\0"),
        login(b"InitiatorName=\xff\xfe\0"),
        login(b"InitiatorName=iqn.no:end"),
        login(b"rubbish"),
        login(b""),
        b"\x43" + b"\xff" * 47,
        b"\x43\x87\0\0\x01" + bytes(43),  # an additional header
    ],
)
def test_what_names_nobody_is_known_for_it(head: bytes) -> None:
    assert initiator_of(head) == ""


@given(st.binary(max_size=96), st.integers(0, 96))
def test_whatever_comes_has_an_answer_that_stands(head: bytes, cut: int) -> None:
    """More bytes never change what was known from fewer."""
    head = b"\x43" + head
    known = initiator_of(head[:cut])
    assert known is None or known == initiator_of(head)


def test_no_more_is_looked_at_than_a_login_may_have() -> None:
    longest = f"InitiatorName={NAME}\0".encode().ljust(FIRST_PDU_BYTES_MAX - 48, b"\0")
    assert initiator_of(login(longest)) == NAME
    assert initiator_of(login(longest + b"\0")[:48]) == ""


NAMES = [f"iqn.2026-11.io.lunmesh.test:host{number}" for number in range(2000)]


def test_each_process_gets_its_part() -> None:
    for count in (2, 5):
        parts = [process_of(name, count) for name in NAMES]
        assert set(parts) == set(range(1, count + 1))
        # Four standard deviations; the names and the hash are always the same.
        for number in range(1, count + 1):
            assert abs(parts.count(number) - len(NAMES) / count) < 4 * (len(NAMES) / count) ** 0.5


def test_one_process_more_takes_and_moves_no_others() -> None:
    for count in (1, 2, 7):
        moved = [
            process_of(name, count + 1)
            for name in NAMES
            if process_of(name, count) != process_of(name, count + 1)
        ]
        assert set(moved) == {count + 1}
        assert len(moved) < 2 * len(NAMES) / (count + 1)


def test_the_case_of_a_name_makes_no_difference() -> None:
    assert all(process_of(name, 9) == process_of(name.upper(), 9) for name in NAMES[:50])


def test_where_they_are_stays_where_it_was() -> None:
    """Nodes of several versions have to agree, and initiators keep tags."""
    assert [process_of(name, 4) for name in NAMES[:8]] == EXPECTED


EXPECTED = [1, 2, 1, 2, 4, 1, 4, 1]
