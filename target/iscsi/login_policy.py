"""What a login asks of the rest of the target, and what comes out of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from target.iscsi.chap import ChapPolicy, Secret
from target.iscsi.constants import LoginStatus
from target.iscsi.parameters import SessionParameters


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginIdentity:
    """Who logs in, to what, as which session (RFC 7143 6.3.1)."""

    initiator: str
    target: str | None
    """None in a discovery session."""
    isid: bytes
    tsih: int
    """0 for a new session; else the session that this connection wants to join."""
    cid: int
    discovery: bool = False
    initiator_alias: str | None = None
    user: str | None = None
    """The CHAP name that was proved; None without authentication."""
    secret: Secret | None = None
    """What it was proved with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingSession:
    """What a login has to know of the session that it wants to join."""

    connections: Collection[int]
    """The CIDs in use; one of them again is a connection reinstatement (RFC 7143 6.3.4)."""
    max_connections: int
    exp_cmd_sn: int
    max_cmd_sn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Established:
    """The session as the final response announces it."""

    tsih: int
    exp_cmd_sn: int
    max_cmd_sn: int


class LoginPolicy(Protocol):
    """The target's answers.  Any method may raise LoginRefused with a status of its own."""

    def target_exists(self, name: str) -> bool:
        """Whether a target of this name is served here."""

    def admits(self, initiator: str, target: str) -> bool:
        """Whether this initiator may log in to this target; discovery is open to all."""

    def authentication(self, initiator: str, target: str | None) -> ChapPolicy | None:
        """The CHAP users of this target (None: of discovery); None if no CHAP is demanded."""

    def portal_group_tag(self, target: str) -> int:
        """The tag of the portal group that the connection came in by."""

    def session(self, identity: LoginIdentity) -> ExistingSession | None:
        """The session with this initiator, ISID, target and TSIH (which is not 0)."""

    def establish(
        self, identity: LoginIdentity, parameters: SessionParameters, exp_cmd_sn: int
    ) -> Established:
        """Called once, just before the final response: the login has succeeded.

        With TSIH 0 it makes the session (and ends one of the same initiator, ISID and target:
        session reinstatement, RFC 7143 6.3.5), which begins with ``exp_cmd_sn``; else it adds the
        connection or reinstates it.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginComplete:
    """The connection enters the full feature phase."""

    identity: LoginIdentity
    parameters: SessionParameters
    tsih: int
    exp_cmd_sn: int
    max_cmd_sn: int
    """What the final response announced."""
    stat_sn: int
    """Of the next response on this connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginFailure:
    """The login is over: the caller sends what is left and closes the connection."""

    status: LoginStatus
    text: str
    initiator: str | None = None
    target: str | None = None
