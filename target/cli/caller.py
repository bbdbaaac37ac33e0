"""How a command shows a node who it is: by the environment, which is the same for all commands.

LUNMESH_ADMIN_TOKEN_FILE is the token of ``serve --admin-token-file``; LUNMESH_ADMIN_CA is who has
signed the node's certificate, and makes the call one by TLS; LUNMESH_ADMIN_CERT and
LUNMESH_ADMIN_KEY are shown to a node that asks for a certificate.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Final

from target.admin.client import AdminClient
from target.cli.errors import CliError
from target.config.admin import TOKEN_CHARS_MAX, parse_token
from target.config.file import read_text
from target.config.model import Portal

TOKEN_FILE: Final = "LUNMESH_ADMIN_TOKEN_FILE"
CA, CERTIFICATE, KEY = "LUNMESH_ADMIN_CA", "LUNMESH_ADMIN_CERT", "LUNMESH_ADMIN_KEY"


def caller(address: Portal) -> AdminClient:
    """Raises CliError, and ConfigError for a file that cannot be read."""
    return AdminClient(address, token=_token(), context=_context())


def _token() -> str | None:
    path = os.environ.get(TOKEN_FILE)
    if not path:
        return None
    try:
        return parse_token(read_text(Path(path), TOKEN_CHARS_MAX))
    except ValueError as exc:
        raise CliError(f"{TOKEN_FILE}: {exc}", 2) from None


def _context() -> ssl.SSLContext | None:
    ca, certificate, key = (os.environ.get(name) for name in (CA, CERTIFICATE, KEY))
    if not ca:
        if certificate or key:
            raise CliError(f"{CERTIFICATE} and {KEY} need {CA}", 2)
        return None
    try:
        context = ssl.create_default_context(cafile=ca)
        if certificate:
            context.load_cert_chain(certificate, key)
    except OSError as exc:
        reason = exc.strerror or str(exc)
        raise CliError(f"{CA}, {CERTIFICATE}, {KEY}: {reason}", 2) from exc
    return context
