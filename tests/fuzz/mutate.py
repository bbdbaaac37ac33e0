"""Mutations of a session: of its bytes, of the fields of its PDUs, and of their order."""

from __future__ import annotations

import random
from collections.abc import Callable

BHS_BYTES = 48
# Offsets and widths of what matters in a header: opcode, flags, AHS and data lengths, LUN, tags,
# lengths, sequence numbers, CDB.
FIELDS = (
    (0, 1),
    (1, 1),
    (2, 2),
    (4, 1),
    (5, 3),
    (8, 8),
    (16, 4),
    (20, 4),
    (24, 4),
    (28, 4),
    (32, 1),
    (33, 1),
    (34, 4),
    (36, 4),
    (40, 4),
    (42, 4),
)
NUMBERS = (0, 1, 2, 3, 4, 8, 48, 511, 512, 4096, 65535, 65536, 1 << 20, 0x7FFFFFFF, 0xFFFFFFFF)
Session = list[bytes]
Mutation = Callable[[random.Random, Session], None]


def _pick(rng: random.Random, session: Session) -> int:
    return rng.randrange(len(session))


def flip_bits(rng: random.Random, session: Session) -> None:
    """Some bits anywhere in one PDU."""
    at = _pick(rng, session)
    pdu = bytearray(session[at])
    for _ in range(rng.randint(1, 8)):
        pdu[rng.randrange(len(pdu))] ^= 1 << rng.randrange(8)
    session[at] = bytes(pdu)


def set_field(rng: random.Random, session: Session) -> None:
    """One field of one header: an interesting number, or a small step from what it was."""
    at = _pick(rng, session)
    pdu = bytearray(session[at])
    if len(pdu) < BHS_BYTES:
        return
    offset, width = rng.choice(FIELDS)
    old = int.from_bytes(pdu[offset : offset + width])
    new = rng.choice(NUMBERS) if rng.random() < 0.6 else old + rng.randint(-2, 2)
    pdu[offset : offset + width] = (new & (1 << 8 * width) - 1).to_bytes(width)
    session[at] = bytes(pdu)


def set_opcode(rng: random.Random, session: Session) -> None:
    """Any opcode, with and without the I bit."""
    at = _pick(rng, session)
    session[at] = bytes((rng.randrange(256),)) + session[at][1:]


def scramble_text(rng: random.Random, session: Session) -> None:
    """The data segment of one PDU: delimiters, long runs, other bytes."""
    at = _pick(rng, session)
    head, data = session[at][:BHS_BYTES], bytearray(session[at][BHS_BYTES:])
    for _ in range(min(len(data), rng.randint(1, 12))):
        data[rng.randrange(len(data))] = rng.choice(b"\0=,~0xAY\xff")
    session[at] = head + bytes(data)


def drop(rng: random.Random, session: Session) -> None:
    """A PDU is missing."""
    if len(session) > 1:
        del session[_pick(rng, session)]


def repeat(rng: random.Random, session: Session) -> None:
    """A PDU comes again."""
    session.insert(_pick(rng, session), session[_pick(rng, session)])


def swap(rng: random.Random, session: Session) -> None:
    """Two PDUs in the wrong order."""
    a, b = _pick(rng, session), _pick(rng, session)
    session[a], session[b] = session[b], session[a]


def truncate(rng: random.Random, session: Session) -> None:
    """The stream ends in the middle of a PDU."""
    at = _pick(rng, session)
    session[at] = session[at][: rng.randint(1, len(session[at]))]
    if rng.random() < 0.5:
        del session[at + 1 :]


def insert_noise(rng: random.Random, session: Session) -> None:
    """Bytes that belong to nothing."""
    session.insert(_pick(rng, session), rng.randbytes(rng.randint(1, 96)))


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    set_field,
    set_field,
    set_field,
    set_opcode,
    scramble_text,
    drop,
    repeat,
    swap,
    truncate,
    insert_noise,
)


def mutated(rng: random.Random, seed: Session) -> Session:
    """A copy of ``seed`` with one to four things wrong."""
    session = list(seed)
    for _ in range(rng.randint(1, 4)):
        rng.choice(MUTATIONS)(rng, session)
    return session
