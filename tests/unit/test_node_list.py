"""What initiators are told of the nodes of a cluster."""

from __future__ import annotations

import msgspec

from target.cluster.registry import Member
from target.node_list import FORGET_SECONDS, MemberInfo, NodeList, decode_info

IQN = "iqn.2026-11.io.lunmesh:target"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def member(number: int, *, iqn: str = IQN, reaper: str = "") -> Member:
    info = MemberInfo([f"192.0.2.{number}:3260"], iqn)
    return Member(
        node=f"n{number}",
        epoch=1,
        number=number,
        left_ms=1000,
        reaper=reaper,
        info=msgspec.json.encode(info).decode(),
    )


def listed() -> tuple[NodeList, Clock, list[None]]:
    clock, changes = Clock(), list[None]()
    nodes = NodeList("n1", clock)
    nodes.changed = lambda: changes.append(None)
    return nodes, clock, changes


def test_others_are_told_with_their_tags() -> None:
    nodes, _, changes = listed()
    nodes.update([member(1), member(2), member(7)])
    assert nodes.other_portals() == [(2, ["192.0.2.2:3260"]), (7, ["192.0.2.7:3260"])]
    assert sorted(nodes.live_ports()) == [1, 2, 7]
    nodes.update([member(7), member(1), member(2)])
    nodes.update([member(7), member(1), member(2), member(3)])
    assert changes == [], "a node that is new changes no state"


def test_a_node_that_is_gone_is_remembered_for_a_while() -> None:
    nodes, clock, changes = listed()
    nodes.update([member(1), member(2)])
    clock.now = 10
    nodes.update([member(1)])
    assert (nodes.live_ports(), nodes.gone_ports()) == ([1], [2])
    assert nodes.other_portals() == [(2, ["192.0.2.2:3260"])]
    nodes.update([member(1), member(2)])
    assert nodes.gone_ports() == []
    assert len(changes) == 2
    nodes.update([member(1)])
    clock.now += FORGET_SECONDS
    nodes.update([member(1)])
    assert (nodes.gone_ports(), nodes.other_portals()) == ([], [])


def test_a_node_that_is_being_shut_out_is_gone() -> None:
    nodes, _, changes = listed()
    nodes.update([member(1), member(2)])
    nodes.update([member(1), member(2, reaper="n1")])
    assert (nodes.live_ports(), nodes.gone_ports()) == ([1], [2])
    assert len(changes) == 1


def test_another_name_is_another_target() -> None:
    nodes, _, _ = listed()
    nodes.update([member(1), member(2, iqn="iqn.2026-11.io.lunmesh:other")])
    assert nodes.other_portals() == []
    assert nodes.names_of_others() == {"n2": "iqn.2026-11.io.lunmesh:other"}


def test_what_another_version_says_of_itself_is_nothing() -> None:
    assert decode_info("") == MemberInfo([])
    assert decode_info('{"portals": 3}') == MemberInfo([])
