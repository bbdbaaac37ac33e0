"""Who may use what, by name and by user."""

from __future__ import annotations

import pytest

from target.scsi.access_list import AccessEntry, AccessList, Grant

ONE, OTHER = "iqn.2026-11.test:one", "iqn.2026-11.test:other"
HERE, THERE = "iqn.2026-11.test:here", "iqn.2026-11.test:there"


def entry(initiator: str, user: str = "", **volumes: str) -> AccessEntry:
    return AccessEntry(initiator=initiator, user=user, volumes=volumes).checked()  # type: ignore[arg-type]


def of_volume(name: str) -> str:
    """Where a volume is."""
    return THERE if name.startswith("t") else HERE


def test_without_entries_everybody_sees_everything() -> None:
    access = AccessList()
    rights = access.rights(ONE, None, HERE)
    assert access.admits(ONE, HERE)
    assert rights is not None
    assert rights.grant("anything") == Grant(may_write=True)


def test_an_initiator_without_an_entry_has_nothing() -> None:
    access = AccessList((entry(ONE),), of_volume)
    assert not access.admits(OTHER, HERE)
    assert access.rights(OTHER, None, HERE) is None


def test_names_and_patterns_fold_case() -> None:
    access = AccessList((entry("IQN.2026-11.Test:O*"),), of_volume)
    assert access.admits(ONE.upper(), HERE)
    assert access.admits(OTHER, HERE)
    assert not access.admits("iqn.2026-11.test:p", HERE)


def test_entries_add_up() -> None:
    access = AccessList((entry("*", a="ro", b="ro"), entry(ONE, a="rw")), of_volume)
    one, other = access.rights(ONE, None, HERE), access.rights(OTHER, None, HERE)
    assert one is not None
    assert other is not None
    assert [one.grant(name) for name in "abc"] == [Grant(True), Grant(False), None]
    assert [other.grant(name) for name in "abc"] == [Grant(False), Grant(False), None]


def test_an_entry_for_a_user_is_for_nobody_else() -> None:
    access = AccessList((entry("*", "alice"),), of_volume)
    assert access.admits(ONE, HERE), "who it is, is not known yet"
    assert access.rights(ONE, "alice", HERE) is not None
    assert access.rights(ONE, "bob", HERE) is None
    assert access.rights(ONE, None, HERE) is None


@pytest.mark.parametrize("name", ["", " ", "a b", "x" * 224, "a\nb"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ValueError, match="bad initiator"):
        AccessEntry(initiator=name).checked()


def test_an_entry_lets_in_to_the_targets_of_its_volumes() -> None:
    access = AccessList((entry(ONE, a="rw"), entry(OTHER, a="rw", t="ro")), of_volume)
    assert [access.admits(ONE, where) for where in (HERE, THERE)] == [True, False]
    assert access.rights(ONE, None, THERE) is None
    assert [access.admits(OTHER, where) for where in (HERE, THERE)] == [True, True]


def test_an_entry_of_a_target_lets_in_there_only() -> None:
    access = AccessList((AccessEntry(initiator="*", target=THERE.upper()).checked(),), of_volume)
    assert [access.admits(ONE, where) for where in (HERE, THERE)] == [False, True]
    rights = access.rights(ONE, None, THERE)
    assert rights is not None
    assert rights.grant("whatever comes") == Grant(True)


def test_a_lun_of_ones_own() -> None:
    first = AccessEntry(initiator=ONE, volumes={"a": "ro", "b": "rw"}, luns={"a": 7}).checked()
    second = AccessEntry(initiator="*", volumes={"a": "rw"}, luns={"a": 9}).checked()
    rights = AccessList((first, second), of_volume).rights(ONE, None, HERE)
    assert rights is not None
    assert rights.grant("a") == Grant(True, 7), "the first that says one"
    assert rights.grant("b") == Grant(True, None)


@pytest.mark.parametrize(
    ("luns", "problem"),
    [
        ({"c": 1}, "has not"),
        ({"a": -1}, "must be"),
        ({"a": 16384}, "must be"),
        ({"a": 1, "b": 1}, "same"),
    ],
)
def test_bad_luns(luns: dict[str, int], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        AccessEntry(initiator=ONE, volumes={"a": "rw", "b": "rw"}, luns=luns).checked()
