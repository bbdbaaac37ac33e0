"""The security stage of a login: AuthMethod, and CHAP where it is demanded (RFC 7143 12)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from target.iscsi import text
from target.iscsi.chap import ChapPolicy, ChapServer, Secret
from target.iscsi.constants import LoginStatus
from target.iscsi.errors import LoginRefused, NegotiationError
from target.iscsi.text import Pairs


class SecurityStage:
    """Without a policy AuthMethod is None; with one it is CHAP, and nothing else will do."""

    def __init__(
        self,
        policy: ChapPolicy | None,
        random: Callable[[int], bytes],
        algorithms: Mapping[int, str] | None = None,
    ) -> None:
        self._method: str | None = None
        self._offered = "CHAP" if policy else "None"
        self._chap = ChapServer(policy, random, algorithms) if policy else None

    @property
    def done(self) -> bool:
        """Whether the login may leave the security stage."""
        return self._chap is None or self._chap.done

    @property
    def user(self) -> str | None:
        return self._chap.user if self._chap else None

    @property
    def secret(self) -> Secret | None:
        return self._chap.secret if self._chap else None

    def receive(self, pairs: Pairs, *, transit: bool) -> Pairs:
        """Our answers to the security keys of one request."""
        answers: Pairs = []
        chap: Pairs = []
        for name, value in pairs:
            if name == "AuthMethod":
                answers.append((name, self._choose(value)))
            else:
                chap.append((name, value))
        if chap:
            if self._chap is None or self._method is None:
                raise NegotiationError(f"{chap[0][0]} without AuthMethod=CHAP")
            answers += self._chap.receive(chap)
        if transit and not self.done and self._method is None:
            # Waiting would be in vain: this initiator means to go on without proving anything.
            raise LoginRefused(LoginStatus.AUTHENTICATION_FAILURE, "no AuthMethod was offered")
        return answers

    def _choose(self, offer: str) -> str:
        if self._method is not None:
            raise NegotiationError("AuthMethod comes twice")
        if self._offered not in text.items(offer):
            raise LoginRefused(
                LoginStatus.AUTHENTICATION_FAILURE,
                f"AuthMethod={offer} is offered where {self._offered} is needed",
            )
        self._method = self._offered
        return self._offered
