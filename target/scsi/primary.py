"""Commands of every device type (SPC-4) that ask or steer, and START STOP UNIT (SBC-3 5.25)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from target.block.pool import Buffers, views_of
from target.scsi.cdb import data_in, data_out, no_data, refuse
from target.scsi.command import Access, Command, Kind, Step, usage
from target.scsi.report_luns import report_luns
from target.scsi.sense import (
    FAILED_SELF_TEST,
    MEDIUM_REMOVAL_PREVENTED,
    NO_SENSE,
    CheckCondition,
)
from target.scsi.settings import Set, SettingsChange
from workers.store import StoreError

if TYPE_CHECKING:
    from target.scsi.disk import DiskDevice
    from target.scsi.request import SCSIRequest


def commands(disk: DiskDevice) -> list[Command]:
    """Rows of the opcode table."""

    def row(
        name: str,
        kind: Kind,
        bits: str,
        parse: Step,
        start: object,
        access: Access,
        through: bool = False,
    ) -> Command:
        assert callable(start)
        step = partial(start, disk)
        return Command(
            name, kind, usage(bits), parse, step, through_unit_attention=through, access=access
        )

    return [
        report_luns(),
        row(
            "TEST UNIT READY",
            Kind.INFORM,
            "00 00 00 00 00 04",
            no_data,
            _test_unit_ready,
            Access.READY,
        ),
        row(
            "REQUEST SENSE",
            Kind.INFORM,
            "03 01 00 00 ff 04",
            data_in(4, 1),
            _request_sense,
            Access.ALWAYS,
            through=True,
        ),
        row(
            "START STOP UNIT",
            Kind.CONTROL,
            "1b 01 00 00 f7 04",
            _parse_start_stop,
            _start_stop,
            Access.WRITE,
        ),
        row(
            "SEND DIAGNOSTIC",
            Kind.CONTROL,
            "1d f7 00 ff ff 04",
            _parse_diagnostic,
            _diagnostic,
            Access.WRITE,
        ),
        row(
            "PREVENT ALLOW MEDIUM REMOVAL",
            Kind.CONTROL,
            "1e 00 00 00 03 04",
            _parse_prevent,
            _prevent,
            Access.WRITE,
        ),
    ]


def _test_unit_ready(disk: DiskDevice, req: SCSIRequest) -> None:
    """SPC-4 6.47."""
    disk.check_readable()
    req.complete()


def _request_sense(disk: DiskDevice, req: SCSIRequest) -> None:
    """SPC-4 6.39: a unit attention is reported and thereby cleared; then the power state."""
    pending = req.attachment.unit_attentions
    sense = pending[0] if pending else disk.unreadable or NO_SENSE
    if req.respond(sense.encode(bool(req.cdb[1] & 1)), req.length) and pending:
        del pending[0]


# --- START STOP UNIT ------------------------------------------------------------------------------

_START: Final = 0x01
_LOEJ: Final = 0x02
_NO_FLUSH: Final = 0x04
_POWER_CONDITION: Final = 0xF0
_PREVENT: Final = 0x03  # of PREVENT ALLOW MEDIUM REMOVAL


def _parse_start_stop(req: SCSIRequest) -> None:
    no_data(req)
    if req.cdb[4] & _POWER_CONDITION:
        raise refuse(4, 7)  # there is no power condition mode page, nor VPD page 8Ah
    req.harmless = bool(req.cdb[4] & _START)  # to start a unit is always allowed (SBC-3 table 13)


def _start_stop(disk: DiskDevice, req: SCSIRequest) -> None:
    """IMMED is leave to answer early, of which no use is made: an error is reported where it is."""
    flags = req.cdb[4]
    if flags & _LOEJ:
        if not flags & _START and disk.removal_prevented_by:
            raise CheckCondition(MEDIUM_REMOVAL_PREVENTED)
        raise refuse(4, 1)  # the medium is not removable
    flush = not flags & (_START | _NO_FLUSH) and not disk.stopped and not disk.volume.read_only
    req.run(_set_stopped(disk, req, stopped=not flags & _START, flush=flush))


async def _set_stopped(disk: DiskDevice, req: SCSIRequest, *, stopped: bool, flush: bool) -> None:
    if flush:
        await disk.volume.flush()
    await Set(req.attachment, SettingsChange(stopped=stopped))
    req.complete()


def _parse_prevent(req: SCSIRequest) -> None:
    no_data(req)
    req.harmless = not req.cdb[4] & _PREVENT  # to allow removal is always allowed (SPC-4 table 65)


def _prevent(disk: DiskDevice, req: SCSIRequest) -> None:
    """PREVENT ALLOW MEDIUM REMOVAL (SPC-4 6.17): kept for each I_T nexus."""
    nexus = req.attachment.nexus
    match req.cdb[4] & _PREVENT:
        case 0:
            disk.removal_prevented_by.discard(nexus)
        case 1:
            disk.removal_prevented_by.add(nexus)
        case _:
            raise refuse(4, 1)  # of media changers, obsolete
    req.complete()


# --- SEND DIAGNOSTIC (SPC-4 6.42) -----------------------------------------------------------------

_SELFTEST: Final = 0x04
_SELF_TEST_CODE: Final = 0xE0

_parse_parameter_list = data_out(3, 2)


def _parse_diagnostic(req: SCSIRequest) -> None:
    _parse_parameter_list(req)
    if req.length:
        raise refuse(3)  # there are no diagnostic pages
    if req.cdb[1] & _SELF_TEST_CODE:
        raise refuse(1, 7)  # there is no self-test results log page


def _diagnostic(disk: DiskDevice, req: SCSIRequest) -> None:
    if req.cdb[1] & _SELFTEST:
        disk.check_readable()
        req.run(_self_test(disk, req))
    else:
        req.complete()  # no test and no page was asked for


async def _self_test(disk: DiskDevice, req: SCSIRequest) -> None:
    """The default self-test: the first and the last block can be read."""
    volume, nbytes = disk.volume, disk.block_bytes
    share = req.hba.share
    segments = await Buffers(share, 1)
    try:
        for lba in (0, disk.blocks - 1):
            await volume.read(lba * nbytes, views_of(segments, nbytes), nbytes)
    except StoreError as exc:
        raise CheckCondition(FAILED_SELF_TEST) from exc
    finally:
        share.give(segments)
    req.complete()
