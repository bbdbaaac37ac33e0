"""The admin API: where it listens, and who may call it.

Rules:

1. On loopback everybody on this machine may call it, unless a token or certificates are asked for.
2. Elsewhere it is served to callers with a token, or with a certificate over TLS, or not at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from target.config.file import read_text
from target.config.merge import Merged
from target.config.model import ADMIN_PORT_DEFAULT, AdminTls, Portal
from target.config.values import is_loopback, parse_portal, resolve

TOKEN_CHARS_MIN: Final = 16
TOKEN_CHARS_MAX: Final = 4096


def admin_address(merged: Merged) -> Portal | None:
    """Where it listens; None: nowhere.  Raises ConfigError."""

    def parse(text: str) -> Portal | None:
        if text == "off":
            return None
        address = parse_portal(text, ADMIN_PORT_DEFAULT)
        guarded = merged.source("admin-token-file", "admin-client-ca") is not None
        if not is_loopback(address) and not guarded:  # rule 2
            raise ValueError(
                f"{text!r} is reached from other machines: give admin-token-file or"
                " admin-client-ca, or write a loopback address, or off"
            )
        return address

    default: Portal | None = Portal("127.0.0.1", ADMIN_PORT_DEFAULT)
    return merged.one("admin", parse, default)


def parse_token(text: str) -> str:
    """What a token file holds.  Raises ValueError, which does not show it."""
    token = text.strip()
    if not TOKEN_CHARS_MIN <= len(token) <= TOKEN_CHARS_MAX:
        raise ValueError(f"the token must have {TOKEN_CHARS_MIN} to {TOKEN_CHARS_MAX} characters")
    if not token.isascii() or any(char <= " " or char == "\x7f" for char in token):
        raise ValueError("the token must be printable ASCII without blanks, on one line")
    return token


def admin_token(merged: Merged) -> str | None:
    """The token that callers must have.  Raises ConfigError."""
    source = merged.source("admin-token-file")
    if source is None:
        return None

    def read(text: str) -> str | None:
        try:
            return parse_token(read_text(resolve(text, source.base), TOKEN_CHARS_MAX))
        except ValueError as exc:
            raise ValueError(f"{text}: {exc}") from None

    return merged.one("admin-token-file", read, None)


def admin_tls(merged: Merged) -> AdminTls | None:
    """The PEM files.  Raises ConfigError."""
    certificate, key = _file(merged, "admin-cert"), _file(merged, "admin-key")
    client_ca = _file(merged, "admin-client-ca")
    if (certificate is None) != (key is None):
        name = "admin-cert" if key is None else "admin-key"
        raise merged.fail(name, "give admin-cert and admin-key, or neither")
    if certificate is None or key is None:
        if client_ca is not None:
            raise merged.fail("admin-client-ca", "needs admin-cert and admin-key")
        return None
    return AdminTls(certificate=certificate, key=key, client_ca=client_ca)


def audit_log(merged: Merged) -> Path | None:
    """Where calls are written down.  Raises ConfigError."""
    path = _file(merged, "audit-log")
    if path is not None and admin_address(merged) is None:
        raise merged.fail("audit-log", "the admin API is off, nobody can call it")
    return path


def _file(merged: Merged, name: str) -> Path | None:
    source = merged.source(name)
    if source is None:
        return None
    return merged.one(name, lambda text: resolve(text, source.base), None)


def admin_notes(merged: Merged) -> list[str]:
    """What deserves a warning."""
    address = admin_address(merged)
    if address is None or is_loopback(address) or merged.source("admin-cert") is not None:
        return []
    return [f"the token for {address} is sent in the clear: give admin-cert and admin-key"]
