"""Which of several processes behind one portal serves an initiator (rendezvous hashing).

Every process, and every other node, comes to the same answer without asking anybody; when a process
is added or taken away, only initiators that it gains or had move (Thaler and Ravishankar, "Using
name-based mappings to increase hit rates", 1998).
"""

from __future__ import annotations

from hashlib import blake2b


def process_of(initiator: str, count: int) -> int:
    """1 to ``count``; iSCSI names are compared case folded (RFC 7143 4.2.7)."""
    name = initiator.lower().encode()
    return max(range(1, count + 1), key=lambda number: _weight(name, number))


def _weight(name: bytes, number: int) -> bytes:
    return blake2b(b"%d %b" % (number, name), digest_size=8).digest()
