"""``lunmesh scsi``: single SCSI commands to a volume of the data directory, without a network.

What the commands need of the volume is :class:`Executor`; ``local.py`` opens one.
"""

from __future__ import annotations

import contextlib
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from target.cli.errors import CliError
from target.config import format_size
from target.scsi import sense as sense_module
from target.scsi.sense import Sense, Status

ALLOCATION_BYTES = 4096  # the longest INQUIRY answer worth asking for
PIECE_BYTES = 1 << 20  # longer reads and writes go in pieces of this
RAW_BYTES_MAX = 64 << 20
CDB_LENGTHS = range(6, 261)
UNIT_SERIAL = 0x80
SYNCHRONIZE_CACHE = struct.pack(">B9x", 0x35)


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command ended."""

    status: int
    sense: Sense | None
    data: bytes


class Executor(Protocol):
    """A logical unit that takes a command at a time."""

    def execute(self, cdb: bytes, *, out: bytes = b"", in_bytes: int = 0) -> Answer:
        """Send ``cdb`` with ``out``, take at most ``in_bytes``."""
        ...


def inquiry(unit: Executor, page: int | None) -> None:
    """INQUIRY, standard data or a vital product data page."""
    cdb = struct.pack(">BBBHx", 0x12, page is not None, page or 0, ALLOCATION_BYTES)
    data = good(unit.execute(cdb, in_bytes=ALLOCATION_BYTES))
    if page is None and len(data) >= 36:
        vendor, product, revision = (_text(data[a:b]) for a, b in ((8, 16), (16, 32), (32, 36)))
        print(
            f"type {data[0] & 0x1F:02X}h, vendor {vendor}, product {product}, revision {revision}"
        )
    elif page == UNIT_SERIAL:
        print(f"unit serial number {_text(data[4:])}")
    print(hexdump(data), end="")


def readcap(unit: Executor) -> None:
    """READ CAPACITY (16), said in words."""
    blocks, block_bytes, thin = capacity(unit)
    print(
        f"{blocks} blocks of {block_bytes} bytes, last LBA {blocks - 1}: "
        f"{format_size(blocks * block_bytes)}{', thin' if thin else ''}"
    )


def capacity(unit: Executor) -> tuple[int, int, bool]:
    """Number of blocks, bytes of one, and whether the volume is thin."""
    cdb = struct.pack(">BB8xIxx", 0x9E, 0x10, 32)
    data = good(unit.execute(cdb, in_bytes=32))
    if len(data) < 16:
        raise CliError(f"READ CAPACITY (16) answered {len(data)} bytes only")
    last, block_bytes = struct.unpack_from(">QI", data)
    return last + 1, block_bytes, bool(data[14] & 0x80)


def read(unit: Executor, lba: int, count: int, output: str | None) -> None:
    """READ (16), to a file, to a pipe (``-``), or as a hex dump."""
    blocks, block_bytes, _ = capacity(unit)
    check_range(lba, count, blocks)
    piece = PIECE_BYTES // block_bytes
    with _writer(output) as sink:
        for first in range(lba, lba + count, piece):
            number = min(piece, lba + count - first)
            cdb = struct.pack(">BxQIxx", 0x88, first, number)
            data = good(unit.execute(cdb, in_bytes=number * block_bytes))
            if sink is None:
                print(hexdump(data, first * block_bytes), end="")
            else:
                sink.write(data)


def write(unit: Executor, lba: int, file: str) -> None:
    """WRITE (16) of a whole file, or of what comes through a pipe (``-``)."""
    blocks, block_bytes, _ = capacity(unit)
    with _reader(file) as source:
        while data := source.read(PIECE_BYTES):
            if len(data) % block_bytes:
                raise CliError(
                    f"{file} ends in the middle of a block of {block_bytes} bytes; "
                    f"what belongs before LBA {lba} is written"
                )
            number = len(data) // block_bytes
            check_range(lba, number, blocks)
            good(unit.execute(struct.pack(">BxQIxx", 0x8A, lba, number), out=data))
            lba += number
    good(unit.execute(SYNCHRONIZE_CACHE))


def raw(unit: Executor, cdb: bytes, in_bytes: int, out_file: str | None) -> None:
    """Any command at all; its answer as a hex dump."""
    out = b""
    if out_file is not None:
        with _reader(out_file) as source:
            out = source.read(RAW_BYTES_MAX + 1)
        if len(out) > RAW_BYTES_MAX:
            raise CliError(f"{out_file} is larger than {format_size(RAW_BYTES_MAX)}", 2)
    answer = unit.execute(cdb, out=out, in_bytes=in_bytes)
    print(hexdump(answer.data), end="")
    good(answer)


def good(answer: Answer) -> bytes:
    """The data of a command that ended well."""
    if answer.status in (Status.GOOD, Status.CONDITION_MET):
        return answer.data
    raise CliError(describe(answer))


def describe(answer: Answer) -> str:
    """``CHECK CONDITION: ILLEGAL REQUEST, LBA OUT OF RANGE (21h/00h)``."""
    try:
        status = Status(answer.status).name.replace("_", " ")
    except ValueError:
        status = f"status {answer.status:02X}h"
    sense = answer.sense
    if sense is None:
        return status
    known = (
        name.replace("_", " ")
        for name, value in vars(sense_module).items()
        if isinstance(value, Sense)
        and (value.key, value.asc, value.ascq) == (sense.key, sense.asc, sense.ascq)
    )
    name = next(known, "additional sense")
    where = f", information {sense.information}" if sense.information is not None else ""
    if sense.pointer is not None:
        where += f", {'CDB' if sense.pointer.in_cdb else 'parameter'} byte {sense.pointer.byte}"
    key = sense.key.name.replace("_", " ")
    return f"{status}: {key}, {name} ({sense.asc:02X}h/{sense.ascq:02X}h){where}"


def check_range(lba: int, count: int, blocks: int) -> None:
    """Said here in plain words; the device would answer LBA OUT OF RANGE."""
    if lba + count > blocks:
        raise CliError(f"blocks {lba} to {lba + count - 1} reach past the last one, {blocks - 1}")


def parse_cdb(text: str) -> bytes:
    """Hexadecimal digits, in pairs, with or without blanks between them."""
    try:
        cdb = bytes.fromhex(text)
    except ValueError:
        raise CliError(f"bad CDB {text!r}: write pairs of hexadecimal digits", 2) from None
    if len(cdb) not in CDB_LENGTHS:
        raise CliError(f"bad CDB: it has {len(cdb)} bytes, not 6 to 260", 2)
    return cdb


def parse_number(name: str, text: str, least: int, most: int) -> int:
    """A decimal or ``0x`` number within bounds."""
    try:
        number = int(text, 0)
    except ValueError:
        raise CliError(f"{name}: must be a number, not {text!r}", 2) from None
    if not least <= number <= most:
        raise CliError(f"{name}: must be {least} to {most}, not {number}", 2)
    return number


def hexdump(data: bytes, address: int = 0) -> str:
    """Sixteen bytes a line: address, hexadecimal, text."""
    lines = []
    for offset in range(0, len(data), 16):
        row = data[offset : offset + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{address + offset:08x}  {row.hex(' '):<47}  {text}\n")
    return "".join(lines)


def _text(raw: bytes) -> str:
    return raw.decode("ascii", "replace").strip()


@contextlib.contextmanager
def _reader(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
    else:
        with Path(name).open("rb") as file:
            yield file


@contextlib.contextmanager
def _writer(name: str | None) -> Iterator[BinaryIO | None]:
    if name is None:
        yield None
    elif name == "-":
        yield sys.stdout.buffer
    else:
        with Path(name).open("wb") as file:
            yield file
