"""Who may use what, by name and by user."""

from __future__ import annotations

import pytest

from target.scsi.access_list import AccessEntry, AccessList

ONE, OTHER = "iqn.2026-11.test:one", "iqn.2026-11.test:other"


def entry(initiator: str, user: str = "", **volumes: str) -> AccessEntry:
    return AccessEntry(initiator=initiator, user=user, volumes=volumes).checked()  # type: ignore[arg-type]


def test_without_entries_everybody_sees_everything() -> None:
    access = AccessList()
    rights = access.rights(ONE, None)
    assert access.admits(ONE)
    assert rights is not None
    assert rights.may_write("anything")


def test_an_initiator_without_an_entry_has_nothing() -> None:
    access = AccessList((entry(ONE),))
    assert not access.admits(OTHER)
    assert access.rights(OTHER, None) is None


def test_names_and_patterns_fold_case() -> None:
    access = AccessList((entry("IQN.2026-11.Test:O*"),))
    assert access.admits(ONE.upper())
    assert access.admits(OTHER)
    assert not access.admits("iqn.2026-11.test:p")


def test_entries_add_up() -> None:
    access = AccessList((entry("*", a="ro", b="ro"), entry(ONE, a="rw")))
    one, other = access.rights(ONE, None), access.rights(OTHER, None)
    assert one is not None
    assert other is not None
    assert [one.may_write(name) for name in "abc"] == [True, False, None]
    assert [other.may_write(name) for name in "abc"] == [False, False, None]


def test_an_entry_for_a_user_is_for_nobody_else() -> None:
    access = AccessList((entry("*", "alice"),))
    assert access.admits(ONE), "who it is, is not known yet"
    assert access.rights(ONE, "alice") is not None
    assert access.rights(ONE, "bob") is None
    assert access.rights(ONE, None) is None


@pytest.mark.parametrize("name", ["", " ", "a b", "x" * 224, "a\nb"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ValueError, match="bad initiator"):
        AccessEntry(initiator=name).checked()
