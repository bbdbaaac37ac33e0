"""CHAP users that are kept in the catalog, beside those that are configured.

Rules:

1. With the first user, of either kind, CHAP is demanded of all normal sessions.
2. A configured user goes before one of the same name in the catalog.
3. One whose secret is also this node's own (mutual CHAP) is left out here: one secret for both
   directions is what makes reflection possible (RFC 7143 9.2.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from target.config.chap import parse_chap
from target.iscsi.chap import ChapPolicy, Secret
from target.logs import Log

USERS_MAX: Final = 1024


class UserRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A name and its secret, in clear: CHAP needs it so.  The secret never shows in a repr."""

    name: str
    secret: str

    def __repr__(self) -> str:
        return f"UserRecord(name={self.name!r}, secret=***)"

    def checked(self) -> UserRecord:
        """Itself.  Raises ValueError, which does not show the secret."""
        if ":" in self.name:
            raise ValueError("bad CHAP user: a name has no colon")
        parse_chap(f"{self.name}:{self.secret}")
        return self


Users = tuple[UserRecord, ...]


def policy_of(
    configured: ChapPolicy | None, users: Iterable[UserRecord], log: Log
) -> ChapPolicy | None:
    """Who may log in with ``users`` of the catalog added; None: CHAP is not demanded."""
    secrets = {user.name: Secret(user.secret) for user in users}
    mutual = configured.mutual if configured is not None else None
    for name in [name for name, secret in secrets.items() if mutual and secret == mutual[1]]:
        log.error("the secret of a CHAP user is this node's own: it may not log in here", user=name)
        del secrets[name]
    if configured is not None:
        secrets |= configured.users
    return ChapPolicy(secrets, mutual) if secrets else None
