"""Which worker an I/O goes to: home, or whoever stands in."""

from __future__ import annotations

import uuid as uuids
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from target.block.share_group import ShareGroup
from target.block.worker_channel import ShareInfo
from workers.store import IoKind, StoreIo

UUID = uuids.UUID("12345678-1234-5678-1234-567812345678")
CHUNK = 1 << 20
CHUNKS = 3000


@dataclass
class Queue:
    released_shares: list[Any] = field(default_factory=list)

    def released(self, share: Any) -> None:
        self.released_shares.append(share)


@dataclass
class Link:
    serving: bool = True
    settled: bool = True
    queue: Queue = field(default_factory=Queue)


@dataclass
class Member:
    """What a group looks at."""

    number: int
    store_id: str = "engine"
    handle: int = 1
    link: Link = field(default_factory=Link)
    held: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.info = ShareInfo("disk", UUID.bytes, 0, CHUNK, 512, place=f"place {self.number}")


def group(*members: Member) -> ShareGroup:
    it = ShareGroup()
    it.members.extend(members)  # type: ignore[arg-type]
    return it


def goes_to(it: ShareGroup, home: Member, chunk: int, kind: IoKind = IoKind.READ) -> Any:
    io = StoreIo(kind, chunk * CHUNK + 512, 512, lambda _: None)
    return it.member_for(home, io)  # type: ignore[arg-type]


def test_what_one_leaves_is_spread_over_the_others() -> None:
    members = [Member(n) for n in range(4)]
    members[0].link.serving = False
    it = group(*members)
    counts = Counter(goes_to(it, members[0], chunk).number for chunk in range(CHUNKS))
    assert set(counts) == {1, 2, 3}
    assert all(CHUNKS / 4 < count < CHUNKS / 2 for count in counts.values())


def test_a_chunk_stays_where_it_is_while_the_same_ones_serve() -> None:
    members = [Member(n) for n in range(3)]
    members[0].link.serving = False
    it = group(*members)
    before = [goes_to(it, members[0], chunk) for chunk in range(50)]
    assert before == [goes_to(it, members[0], chunk) for chunk in range(50)]
    members[1].link.serving = False
    assert {goes_to(it, members[0], chunk).number for chunk in range(50)} == {2}


def test_nobody_stands_in_who_cannot() -> None:
    home, other = Member(0), Member(1, store_id="another")
    away, closed = Member(2), Member(3, handle=0)
    home.link.serving = away.link.serving = False
    assert goes_to(group(home, other, away, closed), home, 0) is home


def test_nobody_stands_in_for_a_local_store() -> None:
    home, other = Member(0, store_id=""), Member(1, store_id="")
    home.link.serving = False
    assert goes_to(group(home, other), home, 0) is home
    assert goes_to(group(home, other), home, 0, IoKind.FLUSH) is home


def test_it_settles_once_when_every_worker_has() -> None:
    first, second = Member(0), Member(1)
    it = group(first, second)
    first.held.append("an I/O")
    found = []
    for settled in (False, True, False):  # whatever becomes of it later
        second.link.settled = settled
        it.settle()
        found.append((it.settled, len(first.link.queue.released_shares)))
    assert found == [(False, 0), (True, 1), (True, 1)]
