"""What a mistake in the configuration raises."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(Exception):
    """A configuration that cannot be used.  Its text is one line that names the place."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'portal'?)`` or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
