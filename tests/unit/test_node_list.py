"""What initiators are told of the nodes of a cluster."""

from __future__ import annotations

import msgspec

from target.cluster.registry import Member
from target.config.model import ProcessPlace
from target.node_list import FORGET_SECONDS, MemberInfo, NodeList, decode_info
from target.rendezvous import process_of

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
    assert nodes.other_portals("iqn.test:any") == [
        (2, [("192.0.2.2:3260", "")]),
        (7, [("192.0.2.7:3260", "")]),
    ]
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
    assert nodes.other_portals("iqn.test:any") == [(2, [("192.0.2.2:3260", "")])]
    nodes.update([member(1), member(2)])
    assert nodes.gone_ports() == []
    assert len(changes) == 2
    nodes.update([member(1)])
    clock.now += FORGET_SECONDS
    nodes.update([member(1)])
    assert (nodes.gone_ports(), nodes.other_portals("iqn.test:any")) == ([], [])


def test_a_node_that_is_being_shut_out_is_gone() -> None:
    nodes, _, changes = listed()
    nodes.update([member(1), member(2)])
    nodes.update([member(1), member(2, reaper="n1")])
    assert (nodes.live_ports(), nodes.gone_ports()) == ([1], [2])
    assert len(changes) == 1


def test_another_name_is_another_target() -> None:
    nodes, _, _ = listed()
    nodes.update([member(1), member(2, iqn="iqn.2026-11.io.lunmesh:other")])
    assert nodes.other_portals("iqn.test:any") == []
    assert nodes.names_of_others() == {"n2": "iqn.2026-11.io.lunmesh:other"}


def test_what_another_version_says_of_itself_is_nothing() -> None:
    assert decode_info("") == MemberInfo([])
    assert decode_info('{"portals": 3}') == MemberInfo([])


def process(
    number: int, place: int, *, group: str = "g", count: int = 2, reaper: str = ""
) -> Member:
    """Member ``number``, which is the process ``place`` behind one address."""
    info = MemberInfo(
        [f"192.0.2.{group}:3260"], IQN, ProcessPlace(group=group, number=place, count=count)
    )
    encoded = msgspec.json.encode(info).decode()
    return Member(
        node=f"{group}-{place}", epoch=1, number=number, left_ms=1, reaper=reaper, info=encoded
    )


INITIATORS = [f"iqn.test:{number}" for number in range(20)]


def test_an_address_is_told_with_the_tag_of_the_process_that_will_answer() -> None:
    nodes, _, _ = listed()
    nodes.update([member(1), process(5, 1), process(8, 2)])
    for initiator in INITIATORS:
        tag = {1: 5, 2: 8}[process_of(initiator, 2)]
        assert nodes.other_portals(initiator) == [(tag, [("192.0.2.g:3260", "")])]


def test_a_process_that_is_gone_is_told_all_the_same() -> None:
    nodes, _, _ = listed()
    nodes.update([member(1), process(5, 1), process(8, 2, reaper="n1")])
    tags = {nodes.other_portals(initiator)[0][0] for initiator in INITIATORS}
    assert tags == {5, 8}


def test_labels_of_portals_are_told() -> None:
    info = MemberInfo(
        ["192.0.2.2:3260", "198.51.100.2:3260"], IQN, groups={"192.0.2.2:3260": "san"}
    )
    other = Member("n2", 1, 2, 1, "", msgspec.json.encode(info).decode())
    nodes, _, _ = listed()
    nodes.update([member(1), other])
    ((_, told),) = nodes.other_portals("iqn.test:any")
    assert told == [("192.0.2.2:3260", "san"), ("198.51.100.2:3260", "")]


def test_siblings_are_not_told_again() -> None:
    nodes = NodeList("g-1", Clock())
    nodes.update([process(5, 1), process(8, 2), process(9, 1, group="h", count=1), member(3)])
    assert nodes.other_portals("iqn.test:any") == [
        (9, [("192.0.2.h:3260", "")]),
        (3, [("192.0.2.3:3260", "")]),
    ]


def test_the_number_of_processes_is_that_of_those_that_are_there() -> None:
    """Of four there are two left: those that are gone have said something else."""
    nodes, clock, _ = listed()
    nodes.update([member(1), *(process(4 + n, n, count=4) for n in range(1, 5))])
    clock.now = 10
    nodes.update([member(1), process(5, 1), process(6, 2)])
    for initiator in INITIATORS:
        assert nodes.other_portals(initiator)[0][0] == 4 + process_of(initiator, 2)


def test_a_node_that_has_become_processes_is_not_told_beside_them() -> None:
    info = MemberInfo(["192.0.2.g:3260"], IQN)
    alone = Member("g", 1, 7, 1, "", msgspec.json.encode(info).decode())
    nodes, clock, _ = listed()
    nodes.update([member(1), alone])
    assert nodes.other_portals("iqn.test:any") == [(7, [("192.0.2.g:3260", "")])]
    clock.now = 10
    nodes.update([member(1), process(5, 1, count=1)])
    assert nodes.other_portals("iqn.test:any") == [(5, [("192.0.2.g:3260", "")])]
