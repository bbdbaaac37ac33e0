"""key=value text and the values in it (RFC 7143 6.1).

Rules:

1. Every pair ends in a NUL, the last one too; a NUL more between pairs is let pass.
2. Everything has a bound (see ``limits``), checked before anything is built from it.  A value is
   bounded by its whole text; whoever reads it asks for the narrower bound of its kind.
3. What cannot be read raises :class:`TextError`; nothing is guessed.
4. A request may be spread over several PDUs by the C bit, cut at any byte: :class:`TextAssembler`
   joins the bytes first, and only the whole is parsed.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable

from target.iscsi.errors import TextError
from target.iscsi.limits import (
    ISCSI_NAME_BYTES_MAX,
    KEY_NAME_BYTES_MAX,
    LIST_ITEMS_MAX,
    NUMBER_BITS_MAX,
    SIMPLE_VALUE_BYTES_MAX,
    TEXT_KEYS_MAX,
    TEXT_REQUEST_BYTES_MAX,
    TEXT_REQUEST_PDUS_MAX,
)
from target.iscsi.pdubase import Buffer

Pairs = list[tuple[str, str]]

# The standard-label of RFC 7143 6.1, and '#' for the X# keys that IANA once registered.
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9.\-+@_#/]*", re.ASCII)
_DECIMAL = re.compile(r"0|[1-9][0-9]*", re.ASCII)
_HEX = re.compile(r"0[xX][0-9a-fA-F]+", re.ASCII)
_BASE64 = re.compile(r"0[bB][A-Za-z0-9+/]+={0,2}", re.ASCII)
_NUMBER_CHARS_MAX = 24


def decode(data: Buffer) -> Pairs:
    """The pairs of one whole text, in their order."""
    if len(data) > TEXT_REQUEST_BYTES_MAX:
        raise TextError(f"{len(data)} bytes of text")
    raw = bytes(data)
    if raw and raw[-1]:
        raise TextError("the last pair has no NUL behind it")
    try:
        parts = [part for part in raw.decode("utf-8").split("\0") if part]
    except UnicodeDecodeError as exc:
        raise TextError("not UTF-8") from exc
    if len(parts) > TEXT_KEYS_MAX:
        raise TextError(f"{len(parts)} keys")
    return [_pair(part) for part in parts]


def _pair(part: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    if not equals:
        raise TextError("a pair without '='")
    if len(key) > KEY_NAME_BYTES_MAX or not _KEY.fullmatch(key):
        raise TextError("a malformed key name")
    return key, value


def encode(pairs: Iterable[tuple[str, str]]) -> bytes:
    """The pairs as they go into a data segment."""
    return "".join(f"{key}={value}\0" for key, value in pairs).encode()


class TextAssembler:
    """Joins the data segments of one exchange until the C bit is clear."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def pending(self) -> bool:
        """Whether a part with the C bit waits for its rest."""
        return bool(self._parts)

    def add(self, data: Buffer, continued: bool) -> Pairs | None:
        """The pairs once they are whole, else None."""
        self._size += len(data)
        if self._size > TEXT_REQUEST_BYTES_MAX or len(self._parts) >= TEXT_REQUEST_PDUS_MAX:
            raise TextError(f"{self._size} bytes of text in {len(self._parts) + 1} PDUs")
        self._parts.append(bytes(data))
        if continued:
            return None
        whole = b"".join(self._parts)
        self._parts, self._size = [], 0
        return decode(whole)


class Outgoing:
    """An answer that leaves in parts of one PDU each.

    RFC 7143 6.2 lets a pair be cut anywhere; initiators that join carelessly exist, so the cut is
    made behind a pair wherever one ends in reach.
    """

    def __init__(self, data: bytes = b"") -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, size_max: int) -> bytes:
        """The next part."""
        at = self._at
        end = min(at + size_max, len(self._data))
        if end < len(self._data):
            end = self._data.rfind(b"\0", at, end) + 1 or end
        self._at = end
        return self._data[at:end]


def simple(value: str) -> str:
    """A simple value within its bound."""
    if len(value.encode()) > SIMPLE_VALUE_BYTES_MAX:
        raise TextError(f"a simple value of more than {SIMPLE_VALUE_BYTES_MAX} bytes")
    return value


def boolean(value: str) -> bool:
    """``Yes`` or ``No``, which are case-sensitive."""
    if value not in ("Yes", "No"):
        raise TextError("neither Yes nor No")
    return value == "Yes"


def from_boolean(value: bool) -> str:
    """The reverse of :func:`boolean`."""
    return "Yes" if value else "No"


def number(value: str, low: int = 0, high: int = (1 << NUMBER_BITS_MAX) - 1) -> int:
    """A decimal or hexadecimal constant within ``low`` and ``high``."""
    # Hexadecimal constants may have leading zeros, but nobody needs many.
    if len(value) > _NUMBER_CHARS_MAX:
        raise TextError("a number too long")
    if _DECIMAL.fullmatch(value):
        n = int(value)
    elif _HEX.fullmatch(value):
        n = int(value, 16)
    else:
        raise TextError("not a number")
    if not low <= n <= high:
        raise TextError(f"{n} is not within {low} and {high}")
    return n


def number_range(value: str) -> tuple[int, int]:
    """``low~high``."""
    first, tilde, last = value.partition("~")
    if not tilde:
        raise TextError("not a range")
    low, high = number(first), number(last)
    if low > high:
        raise TextError("a range upside down")
    return low, high


def items(value: str) -> list[str]:
    """A list of values in order of preference."""
    found = value.split(",")
    if len(found) > LIST_ITEMS_MAX:
        raise TextError(f"a list of {len(found)} items")
    if not all(found):
        raise TextError("an empty item in a list")
    return [simple(item) for item in found]


def binary(value: str, bytes_max: int) -> bytes:
    """A binary value in hexadecimal (0x) or base64 (0b); the digits tell the length."""
    # Twice the bytes in hexadecimal, its prefix, and one digit of a half byte.
    if len(value) > 2 * bytes_max + 2:
        raise TextError(f"a binary value of more than {bytes_max} bytes")
    if _HEX.fullmatch(value):
        digits = value[2:]
        found = bytes.fromhex("0" + digits if len(digits) % 2 else digits)
    elif _BASE64.fullmatch(value):
        try:
            found = base64.b64decode(value[2:], validate=True)
        except binascii.Error as exc:
            raise TextError("malformed base64") from exc
    else:
        raise TextError("neither hexadecimal nor base64")
    if len(found) > bytes_max:
        raise TextError(f"a binary value of more than {bytes_max} bytes")
    return found


def from_binary(value: bytes) -> str:
    """Binary as hexadecimal, which every initiator reads."""
    return "0x" + value.hex()


def iscsi_name(value: str) -> str:
    """An iSCSI name (RFC 7143 4.2.7): bounded, with neither spaces nor control characters.

    The type prefix (iqn., eui., naa.) is not asked for: names without one are in use.
    """
    if not value or len(value.encode()) > ISCSI_NAME_BYTES_MAX:
        raise TextError(f"an iSCSI name is 1 to {ISCSI_NAME_BYTES_MAX} bytes long")
    if not value.isprintable() or any(ch.isspace() or ch == "," for ch in value):
        raise TextError("an iSCSI name with a forbidden character")
    return value
