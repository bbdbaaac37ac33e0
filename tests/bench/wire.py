"""What a message between a node and a worker costs: `python -m tests.bench.wire`."""

from __future__ import annotations

import timeit
from collections.abc import Callable
from functools import partial

from workers.store import IoKind, StoreIo, StoreStatus
from workers.wire import (
    Answer,
    Outgoing,
    pack_answers,
    pack_batch,
    unpack_answers,
    unpack_batch,
)

BYTES = 4096
ROUNDS = 7


def _unused(io: StoreIo) -> None:
    raise AssertionError("never submitted")


def _microseconds(act: Callable[[], object]) -> float:
    timer = timeit.Timer(act)
    count, _ = timer.autorange()
    return min(timer.repeat(ROUNDS, max(1, count // 4))) / max(1, count // 4) * 1e6


def main() -> None:
    """Print it for messages of one and of 32 writes."""
    payload = memoryview(bytes(BYTES))
    print(f"microseconds for a message of 4 KiB writes, best of {ROUNDS}")
    for count in (1, 32):
        ios = [
            Outgoing(n, 7, 1000, StoreIo(IoKind.WRITE, n * BYTES, BYTES, _unused, [payload]))
            for n in range(1, count + 1)
        ]
        answers = [Answer(out.sequence, StoreStatus.OK) for out in ios]
        batch = b"".join(pack_batch("node", 1, 1, ios))
        answer = b"".join(pack_answers(1, answers))
        acts: dict[str, Callable[[], object]] = {
            "pack_batch": partial(pack_batch, "node", 1, 1, ios),
            "unpack_batch": partial(unpack_batch, batch),
            "pack_answers": partial(pack_answers, 1, answers),
            "unpack_answers": partial(unpack_answers, answer),
        }
        figures = ", ".join(f"{name} {_microseconds(act):.1f}" for name, act in acts.items())
        print(f"{count:3d} I/Os: {figures}")


if __name__ == "__main__":
    main()
