"""What the flags of all commands have in common."""

from __future__ import annotations

from typing import Any

import typer
from msgspec import UNSET, UnsetType

from target.config import ConfigError


def flag(panel: str, help_text: str, metavar: str | None = None) -> Any:
    """A flag of ``panel``; what it is when it is not given stands in ``target/config``."""
    return typer.Option(
        metavar=metavar,
        help=help_text.replace("[", r"\["),  # markup, to rich
        show_default=False,
        rich_help_panel=panel,
    )


def given(value: Any) -> Any | UnsetType:
    """UNSET for a flag that is not there."""
    return UNSET if value is None else value


def number(name: str, text: str | None, kind: type[int] | type[float]) -> Any | UnsetType:
    """The number behind ``--name``; raises ConfigError."""
    if text is None:
        return UNSET
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ConfigError(f"--{name}: must be {what}, not {text!r}") from None
