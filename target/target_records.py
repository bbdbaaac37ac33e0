"""The targets beside the one that a node has anyway: those that are configured, and the catalog's.

Rules:

1. A volume is in one target, and has its LUN there.
2. A target that names portal groups is reached at portals with one of these labels only; through
   others it is not there.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from target.config.model import TargetConfig
from target.config.values import TARGET_GROUPS_MAX, parse_group, parse_iscsi_name
from target.iscsi.targets import ServedTarget, TargetList


class TargetRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A target of the catalog, which all nodes serve."""

    name: str
    portal_groups: tuple[str, ...] = ()  # rule 2; none: it is reached everywhere

    def checked(self) -> TargetRecord:
        """Itself.  Raises ValueError."""
        parse_iscsi_name(self.name)
        if len(self.portal_groups) > TARGET_GROUPS_MAX:
            raise ValueError(f"at most {TARGET_GROUPS_MAX} portal groups")
        for group in self.portal_groups:
            parse_group(group)
        return self


Targets = tuple[TargetRecord, ...]


def served_targets(iqn: str, configured: Iterable[TargetConfig], kept: Targets) -> TargetList:
    """``iqn`` names the one that is there anyway, perhaps among those ``configured``, which go
    before those of the catalog.
    """
    records: dict[str, TargetRecord | TargetConfig] = {it.name: it for it in kept}
    records |= {it.name: it for it in configured}
    own = records.pop(iqn, TargetRecord(name=iqn))
    return TargetList(
        ServedTarget(iqn, "", frozenset(own.portal_groups)),
        (ServedTarget(it.name, it.name, frozenset(it.portal_groups)) for it in records.values()),
    )
