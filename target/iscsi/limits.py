"""Every bound of the iSCSI protocol code in one place, with its unit in its name.

The relations between them are asserted at the end: a change that breaks one fails on import.
"""

from __future__ import annotations

from typing import Final

# --- PDUs (RFC 7143 11.2) -------------------------------------------------------------------------
DATA_SEGMENT_BYTES_FIELD_MAX: Final = 0xFFFFFF
"""What the 24-bit DataSegmentLength field can say; never a licence to allocate."""
AHS_BYTES_MAX: Final = 255 * 4
CDB_BYTES_MAX: Final = 260
"""SPC: a variable length CDB is 8 + up to 252 bytes."""

# --- text (RFC 7143 6.1, 6.2) ---------------------------------------------------------------------
KEY_NAME_BYTES_MAX: Final = 63
SIMPLE_VALUE_BYTES_MAX: Final = 255
"""A simple value, or one item of a list."""
TEXT_REQUEST_BYTES_MAX: Final = 65536
"""One whole key=value text, over all its PDUs with the C bit: the 64 KiB of RFC 7143 6.1."""
TEXT_REQUEST_PDUS_MAX: Final = 64
TEXT_KEYS_MAX: Final = 128
TEXT_ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
"""A SendTargets answer held for continuation: some 20,000 targets."""
LIST_ITEMS_MAX: Final = 64
NUMBER_BITS_MAX: Final = 64
ISCSI_NAME_BYTES_MAX: Final = 223

# --- login (RFC 7143 6.3) -------------------------------------------------------------------------
LOGIN_DATA_SEGMENT_BYTES_MAX: Final = 8192
"""RFC 7143 13.12: the default MaxRecvDataSegmentLength holds for the whole login phase."""
LOGIN_PDUS_MAX: Final = 64
"""Request PDUs of one login, continuations and empty ones included."""

# --- CHAP (RFC 7143 12.1.3) -----------------------------------------------------------------------
CHAP_BINARY_BYTES_MAX: Final = 1024
CHAP_NAME_BYTES_MAX: Final = 1024
CHAP_CHALLENGE_BYTES_MIN: Final = 16
"""What we send is as long as the digest of the algorithm, and at least this."""
CHAP_SECRET_BYTES_ADVISED: Final = 12
"""RFC 7143 9.2.1: secrets SHOULD hold 96 random bits."""

# --- refused logins -------------------------------------------------------------------------------
THROTTLE_ADDRESSES_MAX: Final = 4096
THROTTLE_BURST_LOGINS: Final = 10
THROTTLE_REFILL_SECONDS: Final = 6.0

assert LOGIN_DATA_SEGMENT_BYTES_MAX <= TEXT_REQUEST_BYTES_MAX
assert KEY_NAME_BYTES_MAX < SIMPLE_VALUE_BYTES_MAX < TEXT_REQUEST_BYTES_MAX
# A CHAP value has to fit into one Login Request with its companions.
assert 2 * (2 * CHAP_BINARY_BYTES_MAX + CHAP_NAME_BYTES_MAX) <= LOGIN_DATA_SEGMENT_BYTES_MAX
assert CHAP_CHALLENGE_BYTES_MIN <= CHAP_BINARY_BYTES_MAX
assert ISCSI_NAME_BYTES_MAX <= SIMPLE_VALUE_BYTES_MAX
