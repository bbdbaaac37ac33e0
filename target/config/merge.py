"""Several sources of options, the strongest first, asked for one option after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from msgspec import UNSET

from target.config.errors import ConfigError
from target.config.file import read_config_file
from target.config.options import Options, WorkerOptions, field_of

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """Where options come from: what was given, what a place in it is called, where paths begin."""

    options: Options | WorkerOptions
    place: Callable[..., str]
    base: Path

    def given(self, name: str) -> Any:
        return getattr(self.options, field_of(name))


def flag_source(options: Options | WorkerOptions) -> Source:
    """Options of the command line."""
    return Source(options, lambda name, *_: f"--{name}", Path())


def file_source(file: Path, kind: type[Options] | type[WorkerOptions]) -> Source:
    """Options of a TOML file; raises ConfigError."""
    decoded = read_config_file(file, kind)

    def place(name: str, *keys: str | int) -> str:
        return f"{decoded.place(name, *keys)}: {name}"

    return Source(decoded.options, place, file.parent)


class Merged:
    """The sources behind one another."""

    def __init__(self, sources: list[Source]) -> None:
        self._sources = sources

    def source(self, *names: str) -> Source | None:
        """The strongest source that says anything about one of ``names``."""
        for source in self._sources:
            if any(source.given(name) is not UNSET for name in names):
                return source
        return None

    def one(self, name: str, parse: Callable[[Any], T], default: T) -> T:
        source = self.source(name)
        if source is None:
            return default
        return at(source.place(name), parse, source.given(name))

    def many(self, name: str, parse: Callable[[Any, Path], T], default: T) -> tuple[T, ...]:
        source = self.source(name)
        if source is None:
            return (default,)
        given = source.given(name)
        items = given if isinstance(given, list) else [given]
        return tuple(
            at(source.place(name, index), parse, item, source.base)
            for index, item in enumerate(items)
        )

    def fail(self, name: str, problem: str) -> ConfigError:
        source = self.source(name)
        return ConfigError(f"{source.place(name)}: {problem}" if source else f"{name}: {problem}")

    def check_list(self, name: str, items: Sequence[object], most: int) -> None:
        if not items:
            raise self.fail(name, "the list is empty")
        if len(items) > most:
            raise self.fail(name, f"more than {most}")

    def check_unique(self, name: str, items: Sequence[str]) -> None:
        seen: set[str] = set()
        for item in items:
            if item in seen:
                raise self.fail(name, f"{item!r} is given twice")
            seen.add(item)


def at(place: str, parse: Callable[..., T], *args: Any) -> T:
    """What ``parse`` makes of ``args``; its complaint gets the place in front."""
    try:
        return parse(*args)
    except ValueError as exc:
        raise ConfigError(f"{place}: {exc}") from exc
