"""``lunmesh config check FILE``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from target.config import ChapUser, Options, ServeConfig, image_bytes, load_serve_config


def check_config(file: Path, as_json: bool) -> None:
    """Say what ``serve`` would make of ``file``; a mistake is raised as it is there."""
    config = load_serve_config(Options(), file=file, environ=os.environ)
    for volume in config.volumes:
        if volume.path is not None:
            image_bytes(volume)
    if as_json:
        raw = msgspec.json.encode(msgspec.to_builtins(_shown(config), enc_hook=str))
        print(msgspec.json.format(raw, indent=2).decode())
        return
    for note in config.notes:
        print(f"{file}: note: {note}")
    print(
        f"{file}: ok: {config.iqn} on {', '.join(map(str, config.portals))}, "
        f"{len(config.volumes)} volume{'s' * (len(config.volumes) != 1)}"
    )


def _shown(config: ServeConfig) -> dict[str, Any]:
    """The options for eyes and pipes: of CHAP only the names."""
    shown = {name: getattr(config, name) for name in config.__struct_fields__}
    shown["portals"] = [str(portal) for portal in config.portals]
    shown["workers"] = [str(worker) for worker in config.workers]
    shown["worker_tls"] = config.worker_tls is not None
    shown["admin"] = str(config.admin) if config.admin is not None else "off"
    shown["chap"] = [user.user for user in config.chap]
    mutual: ChapUser | None = config.mutual_chap
    shown["mutual_chap"] = mutual.user if mutual else None
    return shown
