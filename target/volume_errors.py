"""What can be wrong with a change of the catalog."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec


class VolumeFault(enum.Enum):
    """Why a change cannot be made."""

    MISSING = "missing"
    CONFLICT = "conflict"  # with what there is
    AWAY = "away"  # somebody who is needed; it may go later


class VolumeError(Exception):
    """A change that cannot be made; the text says why, in one line."""

    def __init__(self, fault: VolumeFault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


class Late(msgspec.Struct, frozen=True, kw_only=True):
    """A node that has not followed a change yet."""

    node: str
    reason: str


class NotEverywhere(Exception):
    """A change that is made, and that ``late`` have not followed; they do as soon as they can."""

    def __init__(self, late: Sequence[Late]) -> None:
        super().__init__(", ".join(f"{it.node} ({it.reason})" for it in late))
        self.late = tuple(late)
