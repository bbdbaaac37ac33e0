"""Valid sessions, PDU by PDU, as the seeds of the fuzzer.

Each is what a real initiator could send without looking at the answers: the sequence numbers and
transfer tags are those that a fresh session will use.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from target.iscsi.constants import RESERVED_TAG, LoginStage, TaskAttribute, TmfFunction
from target.iscsi.pdu import (
    DataOut,
    LoginRequest,
    LogoutRequest,
    NopOut,
    Pdu,
    ScsiCommand,
    SnackRequest,
    TaskManagementRequest,
    TextRequest,
    frame,
)
from tests.support import cdb

ISID = bytes.fromhex("023d00000001")
TARGET = "iqn.2026-11.io.lunmesh:target"
BLOCK = bytes(range(256)) * 2
KEYS = {
    "InitiatorName": "iqn.2026-11.io.lunmesh:fuzz",
    "TargetName": TARGET,
    "SessionType": "Normal",
    "HeaderDigest": "None",
    "DataDigest": "None",
    "InitialR2T": "No",
    "ImmediateData": "Yes",
    "MaxBurstLength": "262144",
    "FirstBurstLength": "65536",
    "MaxRecvDataSegmentLength": "65536",
    "MaxOutstandingR2T": "4",
    "ErrorRecoveryLevel": "0",
}


def text_of(keys: dict[str, str]) -> bytes:
    """key=value pairs as they stand in a data segment."""
    return b"".join(f"{key}={value}\0".encode() for key, value in keys.items())


def login(**changed: str) -> Pdu:
    """A login that goes straight to the full feature phase."""
    return LoginRequest(
        isid=ISID,
        tsih=0,
        initiator_task_tag=1,
        cid=0,
        cmd_sn=1,
        exp_stat_sn=0,
        csg=LoginStage.OPERATIONAL,
        nsg=LoginStage.FULL_FEATURE,
        transit=True,
        data=text_of(KEYS | changed),
    )


def staged_login() -> Iterator[Pdu]:
    """Security stage, then operational, then the full feature phase."""
    names = {key: KEYS[key] for key in ("InitiatorName", "TargetName", "SessionType")}
    rest = {key: value for key, value in KEYS.items() if key not in names}
    security = text_of(names | {"AuthMethod": "CHAP,None"})
    for csg, nsg, data in (
        (LoginStage.SECURITY, LoginStage.OPERATIONAL, security),
        (LoginStage.OPERATIONAL, LoginStage.FULL_FEATURE, text_of(rest)),
    ):
        yield LoginRequest(
            isid=ISID,
            tsih=0,
            initiator_task_tag=1,
            cid=0,
            cmd_sn=1,
            exp_stat_sn=0,
            csg=csg,
            nsg=nsg,
            transit=True,
            data=data,
        )


class Script:
    """Commands of one session in the order of their CmdSN."""

    def __init__(self) -> None:
        self.pdus: list[Pdu] = []
        self._cmd_sn = 1
        self._itt = 16

    def _next(self) -> tuple[int, int]:
        self._cmd_sn += 1
        self._itt += 1
        return self._itt, self._cmd_sn - 1

    def command(self, body: bytes, *, read: int = 0, write: int = 0, data: bytes = b"") -> int:
        """A SCSI command; write data that is not in it follows or is solicited."""
        itt, cmd_sn = self._next()
        self.pdus.append(
            ScsiCommand(
                initiator_task_tag=itt,
                cmd_sn=cmd_sn,
                exp_stat_sn=1,
                cdb=body.ljust(16, b"\0"),
                expected_data_transfer_length=read or write,
                read=bool(read),
                write=bool(write),
                final=not 0 < len(data) < min(write, 65536),
                attribute=TaskAttribute.SIMPLE,
                data=data,
            )
        )
        return itt

    def data_out(self, itt: int, offset: int, data: bytes, *, ttt: int | None = None) -> None:
        """One Data-Out, the last of its sequence."""
        tag = RESERVED_TAG if ttt is None else ttt
        self.pdus.append(
            DataOut(
                initiator_task_tag=itt,
                exp_stat_sn=1,
                data_sn=0,
                buffer_offset=offset,
                final=True,
                data=data,
                target_transfer_tag=tag,
            )
        )

    def add(self, pdu: Pdu) -> None:
        """Any other PDU."""
        self.pdus.append(pdu)


def sessions() -> list[list[bytes]]:
    """The seeds: lists of whole PDUs, as bytes."""
    plain = [[b"".join(frame(pdu, False, False)) for pdu in seed] for seed in _seeds()]
    begin = b"".join(frame(login(HeaderDigest="CRC32C", DataDigest="CRC32C"), False, False))
    digests = [
        [begin, *(b"".join(frame(pdu, True, True)) for pdu in script.pdus)]
        for script in (_reads(), _writes(BLOCK))
    ]
    return plain + digests


def _seeds() -> Iterator[list[Pdu]]:
    block = BLOCK
    yield [login(), *_reads().pdus]
    yield [login(), *_writes(block).pdus]
    yield [login(), *_management().pdus]
    yield [login(), *_provisioning(block).pdus]
    yield [*staged_login(), *_reads().pdus]
    yield [login(ImmediateData="No", InitialR2T="Yes"), *_solicited(block).pdus]
    discovery = {"SessionType": "Discovery", "TargetName": ""}
    text = TextRequest(
        initiator_task_tag=9, cmd_sn=1, exp_stat_sn=1, data=text_of({"SendTargets": "All"})
    )
    yield [login(**discovery), text]


def _reads() -> Script:
    script = Script()
    script.command(cdb.inquiry(), read=255)
    script.command(cdb.read10(0, 8), read=4096)
    script.command(cdb.read16(64, 256), read=131072)
    script.command(cdb.read10(1, 2), read=512)
    script.command(struct.pack(">BBIxHx", 0x28, 0, 0xFFFFFFF0, 4), read=2048)
    return script


def _writes(block: bytes) -> Script:
    script = Script()
    script.command(cdb.write10(0, 4), write=2048, data=block * 4)
    itt = script.command(cdb.write10(8, 16), write=8192, data=block)
    script.data_out(itt, 512, block * 15)
    script.command(cdb.write16(64, 2), write=1024, data=block * 2)
    script.command(cdb.read10(0, 16), read=8192)
    return script


def _solicited(block: bytes) -> Script:
    script = Script()
    itt = script.command(cdb.write10(0, 16), write=8192)
    script.data_out(itt, 0, block * 16, ttt=1)
    itt = script.command(cdb.write10(16, 64), write=32768)
    script.data_out(itt, 0, block * 64, ttt=2)
    return script


def _management() -> Script:
    script = Script()
    itt = script.command(cdb.write10(0, 16), write=8192)  # waits for its data
    sn = 2
    script.add(
        NopOut(initiator_task_tag=70, immediate=True, data=b"ping" * 8, cmd_sn=sn, exp_stat_sn=1)
    )
    for tag, function in enumerate(TmfFunction, 80):
        script.add(
            TaskManagementRequest(
                function=function,
                initiator_task_tag=tag,
                referenced_task_tag=itt,
                ref_cmd_sn=1,
                immediate=True,
                cmd_sn=sn,
                exp_stat_sn=1,
            )
        )
    script.add(SnackRequest(type=0, exp_stat_sn=1, beg_run=0, run_length=0))
    script.add(
        TextRequest(
            initiator_task_tag=71, immediate=True, data=b"X-a=b\0", cmd_sn=sn, exp_stat_sn=1
        )
    )
    script.add(
        LogoutRequest(
            reason=0, initiator_task_tag=72, cid=0, immediate=True, cmd_sn=sn, exp_stat_sn=1
        )
    )
    return script


def _provisioning(block: bytes) -> Script:
    script = Script()
    unmap = struct.pack(">HH4xQI4x", 22, 16, 8, 8)
    script.command(struct.pack(">BB5xHx", 0x42, 0, len(unmap)), write=len(unmap), data=unmap)
    script.command(struct.pack(">BBIxHx", 0x41, 8, 0, 64), write=512, data=block)
    compare = struct.pack(">BBQ3xBxx", 0x89, 0, 0, 1)
    script.command(compare, write=1024, data=block * 2)
    script.command(struct.pack(">BBIxHx", 0x2F, 2, 0, 2), write=1024, data=block * 2)
    select = bytes(8) + bytes((0x08, 0x12)) + bytes(18)
    script.command(struct.pack(">BB5xHx", 0x55, 0x10, len(select)), write=len(select), data=select)
    script.command(struct.pack(">BBQIxx", 0x9E, 0x12, 0, 255), read=255)
    return script
