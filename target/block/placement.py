"""Which worker holds a chunk: rendezvous hashing over the places of a volume.

Each place gets a score for each chunk, a hash of (volume, place, chunk); the highest has the chunk.
All places get the same part.  A place that comes takes its part evenly from all others, one that
goes leaves its part to them; no other chunk moves.

Rules:

1. A score depends on the volume's UUID, the key of the place and the chunk's number alone.  It must
   never change: it says where the bytes are that were written years ago.
2. The order of the places makes no difference, so keys must differ.
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

SCORE_BYTES: Final = 8
CHUNK_NUMBER_BYTES: Final = 8
# Placements that are kept at hand: 256 GiB of chunks of 4 MiB, a few MiB of memory.
CACHED_MAX: Final = 65536


class Placement:
    """``placement(chunk)`` is the index in ``keys`` of the place that has the chunk."""

    def __init__(self, uuid: uuids.UUID, keys: Sequence[str]) -> None:
        assert len(set(keys)) == len(keys) > 0, "rule 2"
        self.keys = tuple(keys)
        # In the order of keys, so that equal scores are decided the same way whatever the order of
        # the places (rule 2).  Hashing begins once for all chunks.
        self._hashes = [
            (blake2b(uuid.bytes + key.encode(), digest_size=SCORE_BYTES), self.keys.index(key))
            for key in sorted(keys)
        ]
        self._cached: dict[int, int] = {}

    def __call__(self, chunk: int) -> int:
        place = self._cached.get(chunk)
        if place is None:
            if len(self._cached) >= CACHED_MAX:
                self._cached.clear()
            place = self._cached[chunk] = self._place(chunk)
        return place

    def _place(self, chunk: int) -> int:
        if len(self._hashes) == 1:
            return 0
        number = chunk.to_bytes(CHUNK_NUMBER_BYTES, "little")
        best, best_place = b"", 0
        for begun, place in self._hashes:
            score = begun.copy()
            score.update(number)
            digest = score.digest()
            if digest > best:
                best, best_place = digest, place
        return best_place
