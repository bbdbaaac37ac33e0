"""Rendezvous hashing: stable, balanced, and nothing moves that need not."""

from __future__ import annotations

import uuid as uuids

import pytest
from hypothesis import given
from hypothesis import strategies as st

from target.block import placement
from target.block.placement import Placement

CHUNKS = 1024
EXPECTED = "ccbbcacbacbbbaaabbabaccccaabbcca"
EXPECTED_FAR = "a"
UUID = uuids.UUID("12345678-1234-5678-1234-567812345678")

keys = st.lists(
    st.text("abcdef0123456789", min_size=1, max_size=16), min_size=2, max_size=8, unique=True
)
volumes = st.uuids()


def held(uuid: uuids.UUID, names: list[str]) -> list[str]:
    """The key of the place of each chunk."""
    place = Placement(uuid, names)
    return [names[place(chunk)] for chunk in range(CHUNKS)]


def test_where_chunks_are_never_changes() -> None:
    """Written down: another result would lose the data of every volume that there is."""
    place = Placement(UUID, ["a", "b", "c"])
    assert "".join(place.keys[place(chunk)] for chunk in range(32)) == EXPECTED
    assert place.keys[place(2**40)] == EXPECTED_FAR


@given(volumes, keys)
def test_the_order_of_places_makes_no_difference(uuid: uuids.UUID, names: list[str]) -> None:
    assert held(uuid, names) == held(uuid, names[::-1])


@given(volumes, keys)
def test_every_place_gets_its_part(uuid: uuids.UUID, names: list[str]) -> None:
    where = held(uuid, names)
    fair = CHUNKS / len(names)
    for name in names:
        # Seven standard deviations of a binomial distribution.
        assert abs(where.count(name) - fair) < 7 * fair**0.5


@given(volumes, keys)
def test_only_chunks_of_a_place_that_goes_move(uuid: uuids.UUID, names: list[str]) -> None:
    gone = names[0]
    for before, after in zip(held(uuid, names), held(uuid, names[1:]), strict=True):
        assert before == gone or after == before


@given(volumes, keys)
def test_volumes_are_spread_differently(uuid: uuids.UUID, names: list[str]) -> None:
    other = uuids.UUID(int=uuid.int ^ 1)
    same = sum(a == b for a, b in zip(held(uuid, names), held(other, names), strict=True))
    assert same < 0.75 * CHUNKS


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "CACHED_MAX", 100)
    place = Placement(UUID, ["a", "b"])
    first = [place(chunk) for chunk in range(1000)]
    assert len(place._cached) <= 100
    assert [place(chunk) for chunk in range(1000)] == first


def test_one_place_has_all() -> None:
    assert {Placement(UUID, ["only"])(chunk) for chunk in range(100)} == {0}
