"""The raw initiator of `initiator.py` over a `WireSocket`, with PDUs to be spoiled by a test."""

from __future__ import annotations

import contextlib

from target.iscsi.channel import Channel
from tests.support import cdb
from tests.support import iscsi_pdu as raw
from tests.support.initiator import Initiator
from tests.support.iscsi_pdu import NO_TAG, Attribute, Opcode, Pdu
from tests.support.iscsi_socket import Disconnected, NoAnswer
from tests.support.wire_socket import WireSocket

GOOD = 0
CHECK_CONDITION = 2


class WireInitiator(Initiator):
    """The raw initiator, over a `WireSocket`."""

    socket: WireSocket

    def __init__(
        self,
        socket: WireSocket,
        *,
        name: str,
        isid: bytes | None,
        tsih: int,
        cid: int,
        target: str | None,
    ) -> None:
        super().__init__(
            "", 0, target=target, name=name, isid=isid, tsih=tsih, cid=cid, socket=socket
        )

    @property
    def channel(self) -> Channel:
        return self.socket.channel

    def settle(self, luns: int = 1) -> None:
        """Take the unit attentions that are pending."""
        for lun in range(luns):
            while self.command(cdb.TEST_UNIT_READY, lun=lun).status == CHECK_CONDITION:
                pass

    # PDUs with the session's numbers, not sent.

    def scsi(
        self,
        command: bytes,
        *,
        edtl: int = 0,
        read: bool = False,
        write: bool = False,
        final: bool = True,
        data: bytes = b"",
        immediate: bool = False,
        attribute: int = Attribute.SIMPLE,
        lun: int = 0,
        itt: int | None = None,
        ahs: bytes = b"",
    ) -> Pdu:
        """A SCSI Command."""
        return raw.scsi_command(
            itt=self.new_tag() if itt is None else itt,
            lun=lun,
            cdb=command,
            cmd_sn=self.next_cmd_sn(immediate=immediate),
            exp_stat_sn=self.exp_stat_sn,
            edtl=edtl,
            read=read,
            write=write,
            final=final,
            attribute=attribute,
            immediate=immediate,
            data=data,
            ahs=ahs,
        )

    def data_out(
        self,
        command: Pdu,
        data: bytes,
        *,
        offset: int = 0,
        sn: int = 0,
        final: bool = True,
        ttt: int = NO_TAG,
    ) -> Pdu:
        """A Data-Out for a SCSI Command."""
        pdu = raw.data_out(
            itt=command.itt,
            lun=0,
            ttt=ttt,
            exp_stat_sn=self.exp_stat_sn,
            data_sn=sn,
            offset=offset,
            data=data,
            final=final,
        )
        pdu.lun_bytes = command.lun_bytes
        return pdu

    def tmf(
        self, function: int, command: Pdu | None = None, *, lun: int = 0, immediate: bool = True
    ) -> Pdu:
        """A Task Management Function Request."""
        return raw.task_management(
            function=function,
            itt=self.new_tag(),
            cmd_sn=self.next_cmd_sn(immediate=immediate),
            exp_stat_sn=self.exp_stat_sn,
            lun=lun,
            referenced_tag=command.itt if command is not None else NO_TAG,
            ref_cmd_sn=command.cmd_sn if command is not None else 0,
            immediate=immediate,
        )

    def ping(self, data: bytes = b"", *, immediate: bool = False) -> Pdu:
        """A NOP-Out that wants an answer."""
        return raw.nop_out(
            itt=self.new_tag(),
            cmd_sn=self.next_cmd_sn(immediate=immediate),
            exp_stat_sn=self.exp_stat_sn,
            immediate=immediate,
            data=data,
        )

    def leave(self, reason: int = 0, *, immediate: bool = False, cid: int | None = None) -> Pdu:
        """A Logout Request."""
        return raw.logout_request(
            itt=self.new_tag(),
            cmd_sn=self.next_cmd_sn(immediate=immediate),
            exp_stat_sn=self.exp_stat_sn,
            reason=reason,
            cid=self.cid if cid is None else cid,
            immediate=immediate,
        )

    # What has come.

    def incoming(self) -> list[Pdu]:
        """Every PDU that has come, its numbers checked; nothing is acted on."""
        pdus: list[Pdu] = []
        with contextlib.suppress(NoAnswer, Disconnected):
            while True:
                pdus.append(self.read_pdu())
        return pdus

    def exchange(self, *pdus: Pdu) -> list[Pdu]:
        """Send PDUs as they are, one after the other, and take all answers."""
        for pdu in pdus:
            self.socket.queue_pdu(pdu)
        self.socket.flush()
        return self.incoming()

    def one(self, *pdus: Pdu) -> Pdu:
        """Like `exchange`, where one answer has to come."""
        (answer,) = self.exchange(*pdus)
        return answer

    def is_closed(self) -> bool:
        """Whether the target has closed the connection."""
        self.socket.pump()
        return self.socket.at_end


def sense_triple(response: Pdu) -> tuple[int, int, int]:
    """Sense key, ASC and ASCQ of a SCSI Response that has to be CHECK CONDITION."""
    assert (response.opcode, response.response) == (Opcode.SCSI_RESPONSE, 0), str(response)
    assert response.status == CHECK_CONDITION, str(response)
    sense = bytes(response.data[2:])
    assert sense[0] & 0x7F == 0x70
    return sense[2] & 0x0F, sense[12], sense[13]


def rejected(answer: Pdu, offender: Pdu) -> int:
    """The reason of a Reject, which has to carry the header of the offending PDU."""
    assert answer.opcode == Opcode.REJECT, str(answer)
    assert answer.itt == NO_TAG
    assert bytes(answer.data) == bytes(offender.bhs) + offender.ahs
    return answer.response
