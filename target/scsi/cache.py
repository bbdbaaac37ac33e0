"""The cache between initiator and medium: SYNCHRONIZE CACHE and PRE-FETCH (SBC-3 5.22, 5.8).

IMMED allows to answer before the work is done.  No use is made of it: the work is done first, so
that an error is reported by the command that met it and not, deferred, by another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from target.scsi.cdb import block_range
from target.scsi.command import Command, Kind, usage
from target.scsi.limits import TRANSFER_BYTES_MAX
from target.scsi.request import Direction
from target.scsi.sense import Status
from target.scsi.verify import read_through

if TYPE_CHECKING:
    from target.scsi.disk import DiskDevice
    from target.scsi.request import SCSIRequest

_RANGE10 = " 02 ff ff ff ff 00 ff ff 04"
_RANGE16 = " 02 ff ff ff ff ff ff ff ff ff ff ff ff 00 04"


def commands(disk: DiskDevice) -> list[Command]:
    """SYNCHRONIZE CACHE and PRE-FETCH for a disk."""
    prefetch_max = TRANSFER_BYTES_MAX // disk.block_bytes

    def start_synchronize(req: SCSIRequest) -> None:
        disk.check_readable()
        if disk.volume.read_only:
            req.complete()  # nothing was ever written
        else:
            req.run(_synchronize(disk, req))

    def start_prefetch(req: SCSIRequest) -> None:
        disk.check_readable()
        req.run(_prefetch(disk, req))

    rows = []
    for size, synchronize, prefetch, rest in (
        (10, "35", "34", _RANGE10),
        (16, "91", "90", _RANGE16),
    ):
        rows += [
            Command(
                f"SYNCHRONIZE CACHE({size})",
                Kind.WRITE,
                usage(synchronize + rest),
                block_range(disk, size, Direction.NONE, refused=0),
                start_synchronize,
            ),
            Command(
                f"PRE-FETCH({size})",
                Kind.READ,
                usage(prefetch + rest),
                block_range(disk, size, Direction.NONE, refused=0, blocks_max=prefetch_max),
                start_prefetch,
            ),
        ]
    return rows


async def _synchronize(disk: DiskDevice, req: SCSIRequest) -> None:
    """All that was answered goes to stable storage, which includes the range that was named."""
    await disk.volume.flush()
    req.complete()


async def _prefetch(disk: DiskDevice, req: SCSIRequest) -> None:
    """CONDITION MET: all of it is in the cache.  0 blocks are the rest of the medium."""
    wanted = (req.blocks or disk.blocks - req.lba) * disk.block_bytes
    fetched = min(wanted, TRANSFER_BYTES_MAX)
    await read_through(disk, req, fetched)
    req.complete(Status.CONDITION_MET if fetched == wanted else Status.GOOD)
