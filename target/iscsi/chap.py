"""CHAP, one way and mutual (RFC 7143 12.1.3, RFC 1994, RFC 7143 9.2.1).

The exchange, after ``AuthMethod=CHAP``::

    initiator  CHAP_A=<list>
    target     CHAP_A=<one> CHAP_I=<identifier> CHAP_C=<challenge>
    initiator  CHAP_N=<name> CHAP_R=<response>  [CHAP_I=… CHAP_C=…]
    target     (done)                           [CHAP_N=<name> CHAP_R=<response>]

where a response is H(identifier, secret, challenge).

Rules:

1. The first algorithm of the initiator's list that we have wins.
2. An initiator that cannot prove its name gets nothing of ours back: its response is checked first.
3. Reflection is refused: our own challenge sent back, a response that is the same as ours, and
   (when it is configured) one secret for both directions.
4. Secrets are compared in constant time, whether the name is known or not, and never shown.
5. Secrets shorter than 96 bits (which RFC 7143 9.2.1 advises) are warned about and used: refusing
   them would lock out initiators whose secrets already exist.  Empty ones are refused.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from target.iscsi import text
from target.iscsi.constants import LoginStatus
from target.iscsi.errors import ChapError, ConfigurationError, LoginRefused
from target.iscsi.limits import (
    CHAP_BINARY_BYTES_MAX,
    CHAP_CHALLENGE_BYTES_MIN,
    CHAP_NAME_BYTES_MAX,
    CHAP_SECRET_BYTES_ADVISED,
)
from target.iscsi.text import Pairs

log = logging.getLogger(__name__)

ALGORITHMS: Final[Mapping[int, str]] = {5: "md5", 6: "sha1", 7: "sha256", 8: "sha3_256"}
"""The IANA numbers and what hashlib calls them."""

_NO_SECRET: Final = b"\0" * 16


class Secret:
    """A CHAP secret that cannot be shown by accident."""

    __slots__ = ("_value",)

    def __init__(self, value: str | bytes) -> None:
        self._value = value.encode() if isinstance(value, str) else bytes(value)
        if not self._value:
            raise ConfigurationError("an empty CHAP secret")

    def reveal(self) -> bytes:
        """The secret itself; for hashing only."""
        return self._value

    @property
    def short(self) -> bool:
        """Whether it has less than the 96 bits that RFC 7143 9.2.1 advises."""
        return len(self._value) < CHAP_SECRET_BYTES_ADVISED

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce__(self) -> str:
        raise TypeError("secrets are not pickled")


@dataclass(frozen=True, slots=True)
class ChapPolicy:
    """Who may log in, and how we prove ourselves to an initiator that asks (mutual CHAP)."""

    users: Mapping[str, Secret]
    mutual: tuple[str, Secret] | None = None

    def __post_init__(self) -> None:
        if not self.users:
            raise ConfigurationError("CHAP is demanded, but there is no user")
        names = [*self.users] + ([self.mutual[0]] if self.mutual else [])
        for name in names:
            if not 0 < len(name.encode()) <= CHAP_NAME_BYTES_MAX or "\0" in name:
                raise ConfigurationError(f"a CHAP name has 1 to {CHAP_NAME_BYTES_MAX} bytes")
        if self.mutual and any(secret == self.mutual[1] for secret in self.users.values()):
            # 9.2.1: one secret for both directions is what makes reflection possible.
            raise ConfigurationError("the mutual CHAP secret is also the secret of a user")
        secrets = dict(self.users) | (dict([self.mutual]) if self.mutual else {})
        for name, secret in secrets.items():
            if secret.short:
                log.warning(
                    "the CHAP secret of %s is shorter than %d bytes",
                    name,
                    CHAP_SECRET_BYTES_ADVISED,
                )


def usable(new: Callable[[str], object]) -> dict[int, str]:
    """The algorithms that ``new`` (hashlib.new) can do; one log line names those it refuses."""
    able, refused = {}, []
    for number, name in ALGORITHMS.items():
        try:
            new(name)
        except ValueError:
            refused.append(name)
        else:
            able[number] = name
    if refused:
        log.warning(
            "CHAP is offered without %s, which this platform refuses (FIPS?)", ", ".join(refused)
        )
    return able


@functools.cache
def platform_algorithms() -> Mapping[int, str]:
    """What this Python's hashlib can do, found out once."""
    return usable(hashlib.new)


def respond(algorithm: str, identifier: int, secret: bytes, challenge: bytes) -> bytes:
    """RFC 1994 4.1: the one-way hash over identifier, secret and challenge."""
    return hashlib.new(algorithm, bytes((identifier,)) + secret + challenge).digest()


class ChapServer:
    """The target's side of one exchange."""

    def __init__(
        self,
        policy: ChapPolicy,
        random: Callable[[int], bytes],
        algorithms: Mapping[int, str] | None = None,
    ) -> None:
        self._policy = policy
        self._random = random
        self._algorithms = platform_algorithms() if algorithms is None else algorithms
        self._algorithm = ""
        self._identifier = 0
        self._challenge = b""
        self.user: str | None = None
        self.secret: Secret | None = None  # that ``user`` has proved to know

    @property
    def done(self) -> bool:
        """Whether the initiator has proved to be ``user``."""
        return self.user is not None

    def receive(self, pairs: Iterable[tuple[str, str]]) -> Pairs:
        """Our part of the exchange.

        Raises LoginRefused (authentication failure), or ChapError and TextError for what cannot
        be understood; none of them may be followed by anything but the end of the login.
        """
        found: dict[str, str] = {}
        for name, value in pairs:
            if name in found:
                raise ChapError(f"{name} comes twice")
            found[name] = value
        match sorted(found):
            case ["CHAP_A"] if not self._algorithm:
                return self._challenge_with(found["CHAP_A"])
            case ["CHAP_N", "CHAP_R"] if self._algorithm and not self.done:
                self._check(found["CHAP_N"], found["CHAP_R"])
                return []
            case ["CHAP_C", "CHAP_I", "CHAP_N", "CHAP_R"] if self._algorithm and not self.done:
                return self._mutual(found)
            case names:
                raise ChapError(f"{', '.join(names)} out of order")

    def _challenge_with(self, offer: str) -> Pairs:
        numbers = [text.number(item) for item in text.items(offer)]
        chosen = next((number for number in numbers if number in self._algorithms), None)
        if chosen is None:
            raise _refused("no CHAP algorithm in common")
        self._algorithm = self._algorithms[chosen]
        size = max(hashlib.new(self._algorithm).digest_size, CHAP_CHALLENGE_BYTES_MIN)
        self._identifier = self._random(1)[0]
        self._challenge = self._random(size)
        return [
            ("CHAP_A", str(chosen)),
            ("CHAP_I", str(self._identifier)),
            ("CHAP_C", text.from_binary(self._challenge)),
        ]

    def _check(self, name: str, response: str) -> bytes:
        """Prove the initiator's name (rule 4); its response comes back for rule 3."""
        if len(name.encode()) > CHAP_NAME_BYTES_MAX:
            raise ChapError("CHAP_N is too long")
        theirs = text.binary(response, CHAP_BINARY_BYTES_MAX)
        secret = self._policy.users.get(name)
        expected = respond(
            self._algorithm,
            self._identifier,
            secret.reveal() if secret else _NO_SECRET,
            self._challenge,
        )
        if not hmac.compare_digest(expected, theirs) or secret is None:
            raise _refused("CHAP: wrong name or secret")
        self.user = name
        self.secret = secret
        return theirs

    def _mutual(self, found: Mapping[str, str]) -> Pairs:
        identifier = text.number(found["CHAP_I"], 0, 255)
        challenge = text.binary(found["CHAP_C"], CHAP_BINARY_BYTES_MAX)
        theirs = self._check(found["CHAP_N"], found["CHAP_R"])
        mutual = self._policy.mutual
        if mutual is None:
            self.user = None
            raise _refused("CHAP: the initiator wants mutual authentication; none is configured")
        name, secret = mutual
        ours = respond(self._algorithm, identifier, secret.reveal(), challenge)
        same_challenge = hmac.compare_digest(challenge, self._challenge)
        if same_challenge or hmac.compare_digest(ours, theirs):
            self.user = None
            raise _refused("CHAP: our challenge or response was reflected")
        return [("CHAP_N", name), ("CHAP_R", text.from_binary(ours))]


def _refused(why: str) -> LoginRefused:
    return LoginRefused(LoginStatus.AUTHENTICATION_FAILURE, why)
