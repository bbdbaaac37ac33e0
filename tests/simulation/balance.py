"""Where chunks are, with ``target/block/placement.py``: how even that is, and what moves.

A volume is on the places that it was given, some of all workers, and its chunks are spread over
those.  Here every worker is a place of equally many volumes, so what is uneven is the hash's.
"""

from __future__ import annotations

import random
import time
import uuid as uuids
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from target.block.placement import Placement

PROCESSES = 2
PARTS = 40


@dataclass(frozen=True)
class Estate:
    """What is placed."""

    volumes: int
    chunks: int  # of each
    workers: int
    places: int  # of each volume


@dataclass(frozen=True)
class Balance:
    """Chunks on workers."""

    mean: float
    lowest: int
    highest: int
    # Of single volumes: chunks on the fullest of its places to the mean of them.
    volume_median: float
    volume_highest: float


@dataclass(frozen=True)
class Growth:
    """A volume gets one place more."""

    places: int
    moved: float  # of its chunks
    elsewhere: int  # chunks that went to another place than the new one


def _uuid(volume: int) -> uuids.UUID:
    return uuids.UUID(int=random.Random(volume).getrandbits(128))


def _key(worker: int) -> str:
    return f"10.{worker >> 16}.{worker >> 8 & 255}.{worker & 255}:3270"


def _deal(estate: Estate, seed: int) -> list[list[int]]:
    """The places of each volume: every worker has equally many, within one."""
    dice = random.Random(seed)
    dealt: list[list[int]] = []
    rest: list[int] = []
    for _ in range(estate.volumes):
        if len(rest) < estate.places:
            fresh = [worker for worker in range(estate.workers) if worker not in rest]
            dice.shuffle(fresh)
            rest += fresh
        dealt.append(rest[: estate.places])
        del rest[: estate.places]
    return dealt


def _place(job: tuple[int, int, list[list[int]]]) -> tuple[Counter[int], list[float]]:
    first, chunks, volumes = job
    total: Counter[int] = Counter()
    fullest = []
    for number, places in enumerate(volumes, first):
        placement = Placement(_uuid(number), [_key(worker) for worker in places])
        of_places = Counter(map(placement, range(chunks)))
        fullest.append(max(of_places.values()) * len(places) / chunks)
        for place, count in of_places.items():
            total[places[place]] += count
    return total, fullest


def balance(estate: Estate, seed: int) -> Balance:
    """Place every chunk of ``estate``."""
    dealt = _deal(estate, seed)
    each = -(-len(dealt) // PARTS)
    jobs = [(n, estate.chunks, dealt[n : n + each]) for n in range(0, len(dealt), each)]
    total: Counter[int] = Counter()
    fullest: list[float] = []
    # Not forked: other tests have left threads in this process.
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        for counted, of_volumes in pool.map(_place, jobs):
            total += counted
            fullest += of_volumes
    counts = [total[worker] for worker in range(estate.workers)]
    assert sum(counts) == estate.volumes * estate.chunks
    fullest.sort()
    return Balance(
        sum(counts) / len(counts),
        min(counts),
        max(counts),
        fullest[len(fullest) // 2],
        fullest[-1],
    )


def growth(chunks: int, places: int) -> Growth:
    """One place more for a volume that has ``places``."""
    keys = [_key(worker) for worker in range(places + 1)]
    before, after = Placement(_uuid(0), keys[:-1]), Placement(_uuid(0), keys)
    moved = [chunk for chunk in range(chunks) if before(chunk) != after(chunk)]
    return Growth(places, len(moved) / chunks, sum(after(chunk) != places for chunk in moved))


def lookup_seconds(places: int, chunks: Sequence[int]) -> float:
    """CPU time of finding where a chunk is, the first time."""
    placement = Placement(_uuid(0), [_key(worker) for worker in range(places)])
    began = time.process_time()
    for chunk in chunks:
        placement(chunk)
    return (time.process_time() - began) / len(chunks)
