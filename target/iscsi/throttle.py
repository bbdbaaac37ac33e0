"""Refused logins, rate limited per address.

Every refusal takes a login out of the address's allowance, which fills up again with time (a token
bucket, kept as the one moment at which it is full again: GCRA).  Logins that succeed take nothing
and give nothing back, so that one good account does not help to guess another.

The table of addresses is bounded; when it is full, the address that would have been forgotten first
makes room.  IPv6 addresses count by their /64, which is what one host can choose from.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from target.iscsi.constants import LoginStatus
from target.iscsi.limits import (
    THROTTLE_ADDRESSES_MAX,
    THROTTLE_BURST_LOGINS,
    THROTTLE_REFILL_SECONDS,
)

GUESSES = frozenset({LoginStatus.AUTHENTICATION_FAILURE, LoginStatus.AUTHORIZATION_FAILURE})
"""The refusals that count.  A wrong target name does not: an initiator that looks for a target that
was removed must not lose its way to the others."""


class LoginThrottle:
    """Ask ``allowed`` before a login, report its end to ``ended``; the clock is monotonic."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        burst_logins: int = THROTTLE_BURST_LOGINS,
        refill_seconds: float = THROTTLE_REFILL_SECONDS,
        addresses_max: int = THROTTLE_ADDRESSES_MAX,
    ) -> None:
        assert burst_logins > 0
        assert refill_seconds > 0
        assert addresses_max > 0
        self._clock = clock
        self._refill_seconds = refill_seconds
        self._debt_seconds_max = burst_logins * refill_seconds
        self._addresses_max = addresses_max
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def allowed(self, address: str) -> bool:
        """Whether one more refusal would still be within the address's allowance."""
        return self.retry_after_seconds(address) == 0

    def retry_after_seconds(self, address: str) -> float:
        """How long until ``allowed`` says yes; 0 if it does."""
        now = self._clock()
        debt = max(0.0, self._full_at.get(_group(address), now) - now)
        return max(0.0, debt + self._refill_seconds - self._debt_seconds_max)

    def ended(self, address: str, status: LoginStatus) -> None:
        """A login from this address ended with this status."""
        if status not in GUESSES:
            return
        now = self._clock()
        group = _group(address)
        if group not in self._full_at and len(self._full_at) >= self._addresses_max:
            self._make_room(now)
        full_at = max(self._full_at.get(group, now), now) + self._refill_seconds
        self._full_at[group] = min(full_at, now + self._debt_seconds_max)

    def _make_room(self, now: float) -> None:
        self._full_at = {group: at for group, at in self._full_at.items() if at > now}
        if len(self._full_at) >= self._addresses_max:
            del self._full_at[min(self._full_at, key=self._full_at.__getitem__)]


def _group(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
