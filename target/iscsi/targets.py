"""The names by which initiators know a node's targets, and through which portals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServedTarget:
    """``key`` is what its logical units are found by (``LunAddress.target``)."""

    name: str
    key: str = ""
    groups: frozenset[str] = frozenset()  # labels of portals; none: all portals

    def at(self, group: str) -> bool:
        """Whether a portal of this label leads to it."""
        return not self.groups or group in self.groups


class TargetList:
    """All targets; ``own`` is there anyway.  Names are case folded (RFC 7143 4.2.7)."""

    def __init__(self, own: ServedTarget, others: Iterable[ServedTarget] = ()) -> None:
        self.own = own
        self._by_name = {it.name.lower(): it for it in (own, *others)}
        self._names = {it.key: it.name for it in self._by_name.values()}

    def __iter__(self) -> Iterator[ServedTarget]:
        return iter(self._by_name.values())

    def find(self, name: str) -> ServedTarget | None:
        """The target of that name."""
        return self._by_name.get(name.lower())

    def name_of(self, key: str) -> str | None:
        """What initiators know a target by; None: it is gone."""
        return self._names.get(key)
