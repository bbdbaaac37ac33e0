"""The worker's buffers: what each node can always have, whatever is lent to whom."""

from __future__ import annotations

import pytest

from workers.buffers import BUFFER_BYTES_MIN, BufferMemory, PoolFull
from workers.limits import CREDIT_BYTES_MIN, LENT_BYTES


@pytest.mark.parametrize("megabytes", [16, 32, 64, 128, 256, 512])
def test_lending_takes_no_nodes_credit(megabytes: int) -> None:
    pool = BufferMemory(megabytes << 20).requests
    shares, lenders = [], 0
    for _ in range(pool.shares_max):
        shares.append(pool.open_share())
        lenders += shares[-1].lend(LENT_BYTES)
    with pytest.raises(PoolFull):
        pool.open_share()
    assert lenders == min(pool.shares_max, pool.extra_total // 2 // LENT_BYTES)
    for share in shares:  # at the same time
        assert share.room() >= CREDIT_BYTES_MIN
        share.take(CREDIT_BYTES_MIN)
    assert pool.used <= pool.total
    for share in shares:
        share.give(CREDIT_BYTES_MIN)
        assert share.room() >= CREDIT_BYTES_MIN
        share.close()
    assert (pool.used, pool.extra_used, pool.lent, pool.shares) == (0, 0, 0, 0)


def test_what_is_not_lent_after_all_is_there_for_others() -> None:
    pool = BufferMemory(32 << 20).requests
    one, other = pool.open_share(), pool.open_share()
    assert one.lend(LENT_BYTES)
    assert not other.lend(LENT_BYTES)
    one.keep()
    assert other.lend(LENT_BYTES)
    for share in (one, other):
        share.close()
    assert pool.used == 0


def test_the_least_lends_nothing() -> None:
    pool = BufferMemory(BUFFER_BYTES_MIN).requests
    assert not pool.open_share().lend(LENT_BYTES)
