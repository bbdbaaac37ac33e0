"""Who logs in, as the first bytes of a connection tell.

Rules:

1. The first PDU must be a Login Request, and has InitiatorName in it (RFC 7143 6.3, 13.4).
2. What is none, or has none, is for any process to answer as the standard says: nobody, ``""``.
3. No more than ``FIRST_PDU_BYTES_MAX`` are looked at; a login that is longer is refused anyway.
"""

from __future__ import annotations

from typing import Final

from target.iscsi import text
from target.iscsi.constants import BHS_LENGTH, OPCODE_MASK, Opcode
from target.iscsi.errors import TextError
from target.iscsi.limits import LOGIN_DATA_SEGMENT_BYTES_MAX
from target.iscsi.pdubase import segment_lengths
from target.iscsi.requests import LoginRequest

FIRST_PDU_BYTES_MAX: Final = BHS_LENGTH + LOGIN_DATA_SEGMENT_BYTES_MAX


def initiator_of(head: bytes) -> str | None:
    """InitiatorName; ``""``: nobody (rule 2); None: what has come is not the whole of it yet."""
    if head and head[0] & OPCODE_MASK != Opcode.LOGIN_REQUEST:
        return ""
    if len(head) < BHS_LENGTH:
        return None
    ahs_bytes, data_bytes = segment_lengths(head)
    if ahs_bytes or data_bytes > LOGIN_DATA_SEGMENT_BYTES_MAX:
        return ""
    data = head[BHS_LENGTH : BHS_LENGTH + data_bytes]
    if len(data) < data_bytes:
        return None
    if LoginRequest.decode(head[:BHS_LENGTH], b"", data).continued:
        data = data[: data.rfind(b"\0") + 1]  # the last pair may be cut
    try:
        names = [value for key, value in text.decode(data) if key == "InitiatorName"]
        return text.iscsi_name(names[0]) if names else ""
    except TextError:
        return ""
