"""Who may call a worker over mutual TLS: certificates by their names, not by their authority alone.

Rules:

1. One authority signs nodes and workers alike.  A certificate of a worker, which any one machine of
   them has lost, must not be good for acting as a node: with ``--tls-client-name`` a caller's
   certificate must have that name among its subject alternative names (dNSName, RFC 5280 4.2.1.6).
2. Names are compared as RFC 9525 does: without regard to case, ``*`` stands for the whole first
   label and for nothing else.  The common name is not looked at.
3. The configuration knows names before gRPC may be imported (grpc_environment.py): who judges calls
   by them stands in callers.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")
NAME_CHARS_MAX: Final = 253


def parse_client_name(text: str) -> str:
    """``NAME`` or ``*.NAME``, as rule 2 has them.  Raises ValueError."""
    first, *rest = text.lower().split(".")
    labels = rest if first == "*" and rest else [first, *rest]
    if len(text) > NAME_CHARS_MAX or not all(LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"bad name {text[:80]!r}: write a DNS name, perhaps *.NAME")
    return text.lower()


def is_named(names: Iterable[str], wanted: str) -> bool:
    """Whether one of ``names`` is ``wanted`` (rule 2)."""
    for name in map(str.lower, names):
        first, dot, rest = name.partition(".")
        if name == wanted or (dot and LABEL.fullmatch(first) and f"*.{rest}" == wanted):
            return True
    return False
