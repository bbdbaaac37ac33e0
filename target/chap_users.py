"""CHAP users that are kept in the catalog, beside those that are configured, and who its nodes are
to an initiator that asks (mutual CHAP).

Rules:

1. With the first user, of either kind, CHAP is demanded of all normal sessions.
2. A configured user goes before one of the same name in the catalog.
3. One whose secret is also this node's own (mutual CHAP) is left out here: one secret for both
   directions is what makes reflection possible (RFC 7143 9.2.1).
4. So is the catalog's mutual CHAP where it has the secret of a configured user.  What is configured
   goes before it.
5. A user keeps its ``id`` when it gets another secret, and its sessions with it.  One that is
   deleted and made again is another user, even to a node that hears of both at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Self

import msgspec

from target.config.chap import parse_chap
from target.iscsi.chap import ChapPolicy, Secret
from target.logs import Log

USERS_MAX: Final = 1024
CATALOG, CONFIGURATION = "catalog", "configuration"  # where something is from


class UserSecret(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A name and its secret, in clear: CHAP needs it so.  The secret never shows in a repr."""

    name: str
    secret: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, secret=***)"

    def checked(self) -> Self:
        """Itself.  Raises ValueError, which does not show the secret."""
        if ":" in self.name:
            raise ValueError("bad CHAP user: a name has no colon")
        parse_chap(f"{self.name}:{self.secret}")
        return self


class UserRecord(
    UserSecret, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A user of the catalog."""

    id: str = ""  # rule 5; empty: older nodes are to read it


class UserInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of a user, or of who a node is to initiators; never a secret."""

    name: str
    source: str  # CONFIGURATION of this node; CATALOG of all


Users = tuple[UserRecord, ...]
Mutual = tuple[UserSecret, ...]
"""Of the catalog: one, or none."""


def policy_of(
    configured: ChapPolicy | None, users: Iterable[UserRecord], kept: Mutual, log: Log
) -> ChapPolicy | None:
    """Who may log in with ``users`` of the catalog added; None: CHAP is not demanded.

    ``kept`` is the catalog's mutual CHAP.
    """
    secrets = {user.name: Secret(user.secret) for user in users}
    mutual = configured.mutual if configured is not None else None
    if mutual is None and kept:
        mutual = kept[0].name, Secret(kept[0].secret)
        if configured is not None and mutual[1] in configured.users.values():
            log.error("the secret of mutual CHAP is that of a configured user: it is not used here")
            mutual = None
    for name in [name for name, secret in secrets.items() if mutual and secret == mutual[1]]:
        log.error("the secret of a CHAP user is this node's own: it may not log in here", user=name)
        del secrets[name]
    if configured is not None:
        secrets |= configured.users
    return ChapPolicy(secrets, mutual) if secrets else None
