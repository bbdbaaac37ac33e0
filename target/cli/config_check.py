"""``lunmesh config check FILE``."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from target.config import Options, image_bytes, load_serve_config
from target.config.shown import shown


def check_config(file: Path, as_json: bool) -> None:
    """Say what ``serve`` would make of ``file``; a mistake is raised as it is there."""
    config = load_serve_config(Options(), file=file, environ=os.environ)
    for volume in config.volumes:
        if volume.path is not None:
            image_bytes(volume)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(shown(config)), indent=2).decode())
        return
    for note in config.notes:
        print(f"{file}: note: {note}")
    print(
        f"{file}: ok: {config.iqn} on {', '.join(map(str, config.portals))}, "
        f"{len(config.volumes)} volume{'s' * (len(config.volumes) != 1)}"
    )
