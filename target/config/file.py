"""The TOML file: its keys into ``Options``, and every mistake with its line.

tomllib forgets where a key stood.  A mistake is rare and may cost a second look: ``_line_of`` finds
the key again in the text.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from target.config.errors import ConfigError, did_you_mean
from target.config.options import (
    AclTable,
    Options,
    TargetTable,
    VolumeTable,
    WorkerOptions,
    field_of,
    option_names,
)

# A key's place in the file: ("volume", 1, "size") is key size of the second [[volume]].
KeyPath = tuple[str | int, ...]
OptionsType = type[Options] | type[WorkerOptions]

CONFIG_BYTES_MAX = 1 << 20
TABLES: Final[Mapping[str, type[VolumeTable] | type[TargetTable] | type[AclTable]]] = {
    "volume": VolumeTable,
    "target": TargetTable,
    "acl": AclTable,
}
_KEY = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*[=.]""")
_TABLE = re.compile(r"""\s*(\[\[?)\s*["']?([A-Za-z0-9_-]+)["']?\s*\]""")
_TOML_PLACE = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)")


class ConfigFile:
    """One decoded file: its options, and the place of each for whoever finds fault with a value."""

    def __init__(self, path: Path, text: str, kind: OptionsType) -> None:
        self.path = path
        self._text = text
        self.options = self._decode(kind)

    def place(self, *keys: str | int) -> str:
        """``config.toml:7``."""
        line = _line_of(self._text, keys)
        return f"{self.path}:{line}" if line else str(self.path)

    def _decode(self, kind: OptionsType) -> Options | WorkerOptions:
        try:
            tables = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as exc:
            raise self._syntax_error(str(exc)) from exc
        except (ValueError, RecursionError) as exc:  # thousands of digits, or of brackets
            raise ConfigError(f"{self.path}: cannot be read: {exc}") from exc
        values: dict[str, Any] = {}
        types = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        for key, value in tables.items():
            if key not in types:
                suggestion = did_you_mean(key, option_names(kind))
                raise ConfigError(f"{self.place(key)}: unknown key {key!r}{suggestion}")
            if key in TABLES and isinstance(value, list):
                value = [self._table(key, index, item) for index, item in enumerate(value)]
            values[field_of(key)] = self._convert(value, types[key], (key,))
        return kind(**values)

    def _table(self, name: str, index: int, item: Any) -> Any:
        """An item of [[volume]], say."""
        if not isinstance(item, dict):
            return item
        kind = TABLES[name]
        for key in item:
            if key not in kind.__struct_encode_fields__:
                suggestion = did_you_mean(key, kind.__struct_encode_fields__)
                place = self.place(name, index, key)
                raise ConfigError(f"{place}: unknown key {key!r} of a {name}{suggestion}")
        for field in msgspec.structs.fields(kind):
            if field.encode_name in item:
                keys = (name, index, field.encode_name)
                self._convert(item[field.encode_name], field.type, keys)
            elif field.required:
                place = self.place(name, index)
                raise ConfigError(f"{place}: this {name} has no {field.encode_name!r}")
        return msgspec.convert(item, kind)

    def _convert(self, value: Any, kind: Any, keys: KeyPath) -> Any:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as exc:
            # "Expected `int`, got `str` - at `$[1]`" without its own idea of a path
            problem = (
                str(exc).partition(" - at ")[0].replace("`", "").replace("Expected", "expected")
            )
            problem = problem.replace(" | null", "")
            raise ConfigError(f"{self.place(*keys)}: {keys[-1]}: {problem}") from exc

    def _syntax_error(self, message: str) -> ConfigError:
        match = _TOML_PLACE.search(message)
        line = self._text.count("\n") + (not self._text.endswith("\n"))
        if match and match[1]:
            line = int(match[1])
        problem = _TOML_PLACE.sub("", message).strip()
        return ConfigError(f"{self.path}:{max(line, 1)}: {problem[:1].lower()}{problem[1:]}")


def read_config_file(path: Path, kind: OptionsType) -> ConfigFile:
    """The decoded file, or :class:`ConfigError`."""
    return ConfigFile(path, read_text(path, CONFIG_BYTES_MAX), kind)


def read_text(path: Path, bytes_max: int) -> str:
    """A small text file; what is wrong with it is a :class:`ConfigError`."""
    try:
        with path.open("rb") as file:
            raw = file.read(bytes_max + 1)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    if len(raw) > bytes_max:
        raise ConfigError(f"{path}: larger than {bytes_max} bytes")
    try:
        return raw.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text") from exc


def _line_of(text: str, keys: KeyPath) -> int | None:
    """The line of a key, of its table's head where it stands inline, or None."""
    head = keys[0] if keys else None
    index = keys[1] if len(keys) > 1 else None
    leaf = keys[-1]
    table: str | None = None  # the [table] or [[table]] that the line belongs to
    seen: dict[str, int] = {}
    best: int | None = None
    for number, line in enumerate(text.split("\n"), 1):
        if match := _TABLE.match(line):
            table = match[2]
            seen[table] = seen.get(table, -1) + 1
            if table == head and index in (None, seen[table]) and best is None:
                best = number
        elif match := _KEY.match(line):
            key = match[1] or match[2] or match[3]
            if table is None and key == head:
                best = number
            elif table is not None and table == head and key == leaf and index == seen[table]:
                return number
    return best
