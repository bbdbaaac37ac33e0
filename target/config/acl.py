"""Access entries as people write them: in flags, in the file, and behind ``lunmesh acl``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

from target.config.merge import Merged
from target.config.options import AclTable
from target.config.values import parse_iscsi_name
from target.scsi.access_list import ENTRIES_MAX, AccessEntry

_VOLUME: Final = re.compile(r"([^:]+)(?::(rw|ro))?(?::([0-9]{1,5}))?")


def access_entry(initiator: str, user: str, target: str, volumes: Iterable[str]) -> AccessEntry:
    """``volumes`` are NAME[:ro|:rw][:LUN].  Raises ValueError."""
    modes: dict[str, Literal["rw", "ro"]] = {}
    luns: dict[str, int] = {}
    for text in volumes:
        found = _VOLUME.fullmatch(text)
        if found is None:
            raise ValueError(
                f"bad volume {text[:80]!r}: write NAME, NAME:ro, NAME:LUN or NAME:ro:LUN"
            )
        name, mode, number = found.groups()
        modes[name] = "ro" if mode == "ro" else "rw"
        if number is not None:
            luns[name] = int(number)
    return AccessEntry(
        initiator=initiator, user=user, target=target, volumes=modes, luns=luns
    ).checked()


def acls(merged: Merged, targets: Sequence[str]) -> tuple[AccessEntry, ...]:
    """The configured entries; none: who may do what is the catalog's.  Raises ConfigError."""

    def parse(item: str | AclTable, base: Path) -> AccessEntry:
        entry = _of_text(item) if isinstance(item, str) else _of_table(item)
        if entry.target and entry.target not in targets:
            raise ValueError(f"{parse_iscsi_name(entry.target)} is no target: see target")
        return entry

    if merged.source("acl") is None:
        return ()
    entries = merged.many("acl", parse, AccessEntry(initiator=""))
    merged.check_list("acl", entries, ENTRIES_MAX)
    merged.check_unique("acl", [" ".join(entry.key) for entry in entries])
    return entries


def _of_table(table: AclTable) -> AccessEntry:
    volumes = [table.volume] if isinstance(table.volume, str) else table.volume
    return access_entry(table.initiator, table.user, table.target, volumes)


def _of_text(text: str) -> AccessEntry:
    """``INITIATOR[,user=NAME][,target=IQN][,volume=NAME[:ro][:LUN]]…``"""
    initiator, *extras = text.split(",")
    said = {"user": "", "target": ""}
    volumes: list[str] = []
    for extra in extras:
        key, equals, value = extra.partition("=")
        if key == "volume" and equals:
            volumes.append(value)
        elif key in said and equals and not said[key]:
            said[key] = value
        else:
            raise ValueError(
                f"acl {initiator!r}: bad {extra[:80]!r}: write user=NAME, target=IQN or volume=NAME"
            )
    return access_entry(initiator, said["user"], said["target"], volumes)
