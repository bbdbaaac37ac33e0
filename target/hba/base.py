"""The HBA interface: what stands between a transport (iSCSI, a function call) and the SCSI layer.

An HBA brings commands in and moves their data.  What a request may ask of it is the protocol
``HbaPort`` of ``target/scsi/request.py`` (the SCSI layer knows no more of an HBA than that); here
it becomes a class to inherit from, with what an HBA can do.

How an HBA drives a command:

1. Make a ``SCSIRequest`` for the I_T_L nexus: the CDB is parsed, direction and length are known.
2. ``expect(n)``: what the initiator is ready to transfer in that direction.
3. Set ``early*`` if some of the data-out came along with the command.
4. ``attachment.unit.submit(request)``.  ``complete`` or ``aborted`` is called exactly once,
   possibly before ``submit`` returns; until then the methods of the port may be called.

The residual is the HBA's arithmetic: ``request.length`` is what the command has, ``expected`` what
the initiator said, ``transfer`` the lesser of both.
"""

from __future__ import annotations

from dataclasses import dataclass

from target.scsi.hba_port import HbaPort
from target.scsi.limits import TRANSFER_BYTES_MAX, WINDOW_BYTES
from target.scsi.request import SCSIRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class HbaCaps:
    """What an HBA can do.

    Requests are the same for all of them: an HBA that cannot take scatter lists copies each piece
    through a bounce buffer of its own (``segment_bytes_max``), and one that cannot queue has one
    command at a time.
    """

    tagged_queueing: bool  # several commands at a time
    scatter_gather: bool  # moves a scatter list without copying it
    segment_bytes_max: int = WINDOW_BYTES  # of one piece of data
    transfer_bytes_max: int = TRANSFER_BYTES_MAX  # of one command


class Hba(HbaPort):
    """Base of all HBAs.  Nothing here costs a command anything."""

    caps: HbaCaps

    def keep_early(self, req: SCSIRequest) -> None:
        """Early data is where it stays: for HBAs that never set ``early_transient``."""

    def release_early(self, req: SCSIRequest) -> None:
        """Early data has no segments of its own."""
