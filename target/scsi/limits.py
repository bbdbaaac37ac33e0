"""Every bound of the SCSI layer, with its unit in its name, and how they hang together.

What an initiator can see of these stands in the Block Limits VPD page (``inquiry.py``); a command
past them is refused, never carried out in part.
"""

from __future__ import annotations

from typing import Final

# --- memory ---------------------------------------------------------------------------------------
WINDOW_BYTES: Final = 1 << 20
"""What one command has in memory at a time, whatever its length."""
PARAMETER_BYTES_MAX: Final = 1 << 16
"""The longest parameter list that is taken in whole."""

# --- one command (SBC-3 6.5.3, VPD page B0h) ------------------------------------------------------
TRANSFER_BYTES_MAX: Final = 32 << 20
"""READ, WRITE, VERIFY, WRITE AND VERIFY, PRE-FETCH."""
TRANSFER_BYTES_OPTIMAL: Final = WINDOW_BYTES
PHYSICAL_BLOCK_BYTES: Final = 4096
"""What stores allocate and disks write: the unit of alignment and of unmapping."""
UNMAP_BYTES_MAX: Final = 512 << 20
"""2**20 blocks of 512 bytes: libiscsi's suite holds more to be a mistake."""
UNMAP_DESCRIPTORS_MAX: Final = 256
WRITE_SAME_BYTES_MAX: Final = 4 << 30
COMPARE_AND_WRITE_BLOCKS_MAX: Final = 255
"""What the field of one byte can say; fewer where two copies would not fit in a window."""

# --- work between two turns of the event loop -----------------------------------------------------
TURN_BYTES_MAX: Final = 16 << 20
"""A command that moves no data over the wire lets others go on after this much work."""

ZERO_BYTES_MAX: Final = 64 << 20
"""What one request to a store zeroes or unmaps: a hole is punched faster than bytes are written."""

# --- objects --------------------------------------------------------------------------------------
UNIT_ATTENTIONS_MAX: Final = 8
"""Per I_T_L nexus; the oldest stay (SPC leaves the order open)."""
LUNS_MAX: Final = 16384
"""What flat space addressing can name."""
REGISTRATIONS_MAX: Final = 256
"""Of keys with one logical unit: as many nexuses as two nodes can have sessions."""

assert TRANSFER_BYTES_MAX % WINDOW_BYTES == 0
assert WINDOW_BYTES % PHYSICAL_BLOCK_BYTES == 0
assert TURN_BYTES_MAX % WINDOW_BYTES == 0
assert PARAMETER_BYTES_MAX <= WINDOW_BYTES
assert 8 + 16 * UNMAP_DESCRIPTORS_MAX <= PARAMETER_BYTES_MAX
