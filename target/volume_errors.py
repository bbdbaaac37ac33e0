"""What can be wrong with a change of volumes."""

from __future__ import annotations

import enum


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
