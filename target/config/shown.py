"""A configuration for eyes and pipes: what it comes to, without its secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import msgspec

from target.config.model import ChapUser, ClusterConfig, ServeConfig

HIDDEN: Final = "***"
_SECRET_WORDS: Final = ("secret", "password", "token")


def shown(config: ServeConfig) -> dict[str, Any]:
    """Every option as builtin types.  Of CHAP only the names, of Redis' address no password."""
    found = {name: getattr(config, name) for name in config.__struct_fields__}
    for name, value in found.items():
        if any(word in name for word in _SECRET_WORDS) and not isinstance(value, Path):
            found[name] = HIDDEN if value else value
    found["portals"] = [
        str(portal) + (f",group={portal.group}" if portal.group else "")
        for portal in config.portals
    ]
    found["workers"] = [str(worker) for worker in config.workers]
    found["worker_tls"] = config.worker_tls is not None
    found["admin"] = str(config.admin) if config.admin is not None else "off"
    found["metrics"] = str(config.metrics) if config.metrics is not None else "off"
    found["admin_tls"] = config.admin_tls is not None
    found["chap"] = [user.user for user in config.chap]
    mutual: ChapUser | None = config.mutual_chap
    found["mutual_chap"] = mutual.user if mutual else None
    cluster: ClusterConfig | None = config.cluster
    if cluster is not None:
        found["cluster"] = msgspec.structs.replace(cluster, url=_without_password(cluster.url))
    plain: dict[str, Any] = msgspec.to_builtins(found, enc_hook=str)
    return plain


def secrets_of(config: ServeConfig) -> list[str]:
    """The secrets that a node has been told, in each way in which they may be written."""
    secrets = [user.secret.decode(errors="replace") for user in config.chap]
    if config.mutual_chap is not None:
        secrets.append(config.mutual_chap.secret.decode(errors="replace"))
    if config.admin_token is not None:
        secrets.append(config.admin_token)
    if config.cluster is not None and (password := _password(config.cluster.url)):
        secrets += [password, unquote(password), quote(unquote(password), safe="")]
    return list(dict.fromkeys(secrets))


def _password(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[0].partition(":")[2]


def _without_password(url: str) -> str:
    password = _password(url)
    return url.replace(f":{password}@", f":{HIDDEN}@", 1) if password else url
