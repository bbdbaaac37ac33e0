"""What is told of a target: by the admin API, and by ``lunmesh target``."""

from __future__ import annotations

import msgspec


class TargetInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A target, as this node serves it."""

    name: str
    source: str  # node: it is there anyway; configuration of this node; catalog of all
    portal_groups: list[str]  # labels of the portals that lead to it; none: all
    volumes: int
    sessions: int  # at this node
