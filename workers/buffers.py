"""The worker's bounded memory for data on its way, in bytes, with a fair share for each client.

One half is for what clients send (they are given credit for it), one half for what is read for
them.  Bytes are accounted for here, not allocated: what is accounted for is bounded, so is what is
allocated.

Rules:

1. Each share can always have ``guaranteed`` bytes; a pool has no more shares than it can do this
   for.  So no client can make another wait for ever, whatever it hoards.
2. What is left is taken by whoever needs it, each up to its fair part, which shrinks when clients
   come; one that holds more than its part then gets nothing new until it is below.
3. What is lent (lent.py) is set aside for as long as a client is there: out of what is left, half
   of it at most, and never out of what is guaranteed.
"""

from __future__ import annotations

from typing import Final

from workers.limits import CREDIT_BYTES_MIN, IO_BYTES_MAX

BUFFER_BYTES_MIN: Final = 16 << 20
CLIENTS_MAX: Final = 64


class PoolFull(Exception):
    """No more shares (rule 1)."""


class Pool:
    """``total`` bytes."""

    def __init__(self, total: int, guaranteed: int, shares_max: int) -> None:
        assert guaranteed * shares_max <= total, "rule 1"
        self.total = total
        self.guaranteed = guaranteed
        self.shares_max = shares_max
        self.extra_total = total - guaranteed * shares_max
        self.extra_used = 0
        self.lent = 0
        self.used = 0
        self.shares = 0

    def open_share(self) -> PoolShare:
        """A share for one more client; raises PoolFull."""
        if self.shares == self.shares_max:
            raise PoolFull
        self.shares += 1
        return PoolShare(self)


class PoolShare:
    """What one client holds."""

    __slots__ = ("_lent", "_pool", "held")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._lent = 0
        self.held = 0

    def room(self) -> int:
        """Bytes that can be taken now."""
        pool = self._pool
        fair = pool.extra_total // (pool.shares + 1)
        guaranteed = pool.guaranteed - self.held
        extra = min(pool.extra_total - pool.extra_used, fair + min(0, guaranteed))
        return max(0, guaranteed) + max(0, extra)

    def take(self, nbytes: int) -> None:
        """Take bytes that there is room for."""
        assert nbytes <= self.room(), "buffers beyond the share"
        self._change(nbytes)

    def give(self, nbytes: int) -> None:
        """Give bytes back."""
        assert nbytes <= self.held, "buffers given back twice"
        self._change(-nbytes)

    def lend(self, nbytes: int) -> bool:
        """Set bytes aside until ``close`` (rule 3); False: there are none for that."""
        pool = self._pool
        if pool.lent + nbytes > pool.extra_total // 2:
            return False
        if pool.extra_used + nbytes > pool.extra_total:
            return False
        self._set_lent(self._lent + nbytes)
        return True

    def keep(self) -> None:
        """Nothing is lent after all."""
        self._set_lent(0)

    def _set_lent(self, nbytes: int) -> None:
        pool, more = self._pool, nbytes - self._lent
        self._lent = nbytes
        pool.lent += more
        pool.extra_used += more
        pool.used += more

    def close(self) -> None:
        """The client is gone, and all that it held has come back."""
        assert self.held == 0, f"{self.held} bytes of buffers leaked"
        self.keep()
        self._pool.shares -= 1

    def _change(self, nbytes: int) -> None:
        pool = self._pool
        before = self.held - pool.guaranteed
        after = before + nbytes
        self.held += nbytes
        pool.used += nbytes
        if before > 0 or after > 0:
            pool.extra_used += max(0, after) - max(0, before)


class BufferMemory:
    """Both halves of ``--buffer-memory``."""

    def __init__(self, total_bytes: int) -> None:
        assert total_bytes >= BUFFER_BYTES_MIN, "checked by the command line"
        half = total_bytes // 2
        clients = min(CLIENTS_MAX, half // (2 * CREDIT_BYTES_MIN))
        self.requests = Pool(half, CREDIT_BYTES_MIN, clients)
        self.answers = Pool(total_bytes - half, IO_BYTES_MAX, clients)
        self.total_bytes = total_bytes

    @property
    def used(self) -> int:
        """Bytes that are credited, or hold data."""
        return self.requests.used + self.answers.used
