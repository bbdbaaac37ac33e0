"""Memory that a worker lends: its runs, its seals, its end."""

from __future__ import annotations

import errno
import os
from random import Random

import pytest

from target.block.borrowed import ALIGNMENT, BorrowedMemory
from workers.lent import LentMemory

SIZE = 64 * ALIGNMENT


def both(nbytes: int = SIZE) -> tuple[LentMemory, BorrowedMemory]:
    lent = LentMemory(nbytes)
    return lent, BorrowedMemory(lent.open(), nbytes)


def test_what_is_put_there_is_what_the_worker_sees() -> None:
    lent, borrowed = both()
    first = borrowed.put([memoryview(b"abc"), memoryview(b"defg")], 7)
    second = borrowed.put([memoryview(b"x" * 5000)], 5000)
    assert (first, second) == (0, ALIGNMENT)
    assert bytes(lent.view[:7]) == b"abcdefg"
    assert bytes(lent.view[ALIGNMENT : ALIGNMENT + 5000]) == b"x" * 5000
    lent.close()


def test_runs_never_overlap_and_all_of_it_comes_back() -> None:
    lent, borrowed = both()
    random = Random(7)
    taken: dict[int, int] = {}
    for _ in range(3000):
        nbytes = random.randint(1, 9 * ALIGNMENT)
        at = borrowed.put([memoryview(bytes(nbytes))], nbytes)
        if at is None or random.random() < 0.2:
            for start in random.sample(sorted(taken), k=len(taken) // 2):
                borrowed.give(start, taken.pop(start))
        if at is not None:
            end = at + nbytes
            assert end <= SIZE
            assert all(end <= s or s + n <= at for s, n in taken.items())
            taken[at] = nbytes
    for start, nbytes in taken.items():
        borrowed.give(start, nbytes)
    assert borrowed.put([memoryview(bytes(SIZE))], SIZE) == 0
    lent.close()


def test_there_is_no_room_for_more_than_there_is() -> None:
    lent, borrowed = both()
    assert borrowed.put([], SIZE + 1) is None
    assert borrowed.put([memoryview(bytes(SIZE))], SIZE) == 0
    assert borrowed.put([memoryview(b"x")], 1) is None
    borrowed.give(0, SIZE)
    assert borrowed.put([memoryview(b"x")], 1) == 0
    lent.close()


def test_a_run_is_given_back_once() -> None:
    lent, borrowed = both()
    at = borrowed.put([memoryview(b"x")], 1)
    assert at is not None
    borrowed.give(at, 1)
    with pytest.raises(AssertionError, match="twice"):
        borrowed.give(at, 1)
    lent.close()


def test_nobody_can_change_its_size() -> None:
    lent = LentMemory(SIZE)
    fd = lent.open()
    for size in (0, 2 * SIZE):
        with pytest.raises(OSError, match=os.strerror(errno.EPERM)):
            os.ftruncate(fd, size)
    os.close(fd)
    lent.close()


def test_a_closed_one_is_lent_to_nobody_and_what_has_a_part_of_it_goes_on() -> None:
    lent, borrowed = both()
    borrowed.put([memoryview(b"abc")], 3)
    part = lent.view[:3]
    lent.close()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        lent.open()
    assert bytes(part) == b"abc"


def test_what_is_smaller_than_the_worker_says_is_not_taken() -> None:
    lent = LentMemory(SIZE)
    with pytest.raises((OSError, ValueError)):
        BorrowedMemory(lent.open(), 2 * SIZE)
    lent.close()
