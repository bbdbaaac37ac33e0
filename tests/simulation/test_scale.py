"""`make simulate` in small, and what has to hold at every scale."""

from __future__ import annotations

import pytest

from target.cluster.node import RENEWALS
from tests.simulation.__main__ import main
from tests.simulation.balance import growth
from tests.simulation.failover import LEASE_SECONDS, Fleet, pauses
from tests.simulation.shards import Load, need, renewals

FLEET = Fleet(nodes=200, luns=200, nodes_of_lun=3, deaths=4)


def test_the_command_prints_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--short"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n|---|") == 10


def test_what_a_dead_node_blocks_goes_on_within_a_lease_and_a_renewal() -> None:
    seen = pauses(FLEET, 1)
    renewal = LEASE_SECONDS / RENEWALS
    assert len(seen.claimed) == len(seen.reaped) == FLEET.deaths
    assert len(seen.writes) > FLEET.deaths
    assert min(seen.claimed) > LEASE_SECONDS - renewal - 0.1, "it was alive until then"
    assert max(seen.writes) < LEASE_SECONDS + renewal + 0.1


def test_a_renewal_names_only_what_has_changed() -> None:
    seen = pauses(FLEET, 2)
    # Each death is a claim and a departure, which each of the others hears of once; before that
    # some find the lease over.
    assert seen.told < 3 * FLEET.nodes * FLEET.deaths
    assert seen.renewals > 10 * seen.told / FLEET.nodes


def test_a_place_more_takes_its_part_from_all_others_and_moves_nothing_else() -> None:
    grown = growth(4000, 9)
    assert grown.elsewhere == 0
    assert grown.moved == pytest.approx(0.1, rel=0.2)


def test_shards_of_a_load() -> None:
    load = Load(luns=100, writes_per_second=80, batch=8, others=0)
    assert load.calls_per_second == 1000
    assert need(load, lambda batch, others: 1e-6).shards == 1
    found = need(load, lambda batch, others: 1e-3)
    assert (found.cores, found.shards) == (1.0, 2)
    assert renewals(1000, 5.0, 1e-5) == pytest.approx(0.008)
