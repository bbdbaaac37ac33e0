"""The format of what is kept as JSON, which is looked at before anything else in there."""

from __future__ import annotations

import msgspec


class _Kept(msgspec.Struct):
    """Whatever the rest is."""

    format: int


def format_of(data: bytes) -> int:
    """Raises ValueError."""
    return msgspec.json.decode(data, type=_Kept).format
