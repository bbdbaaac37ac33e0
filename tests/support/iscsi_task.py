"""A SCSI command over iSCSI as its initiator sees it, for tests.

Each `take_…` acts on one PDU of the target and raises ProtocolError where RFC 7143 forbids it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.iscsi_pdu import NO_TAG, Opcode, Pdu
from tests.support.iscsi_socket import ProtocolError
from tests.support.session_parameters import Parameters

# Given the offset and the bytes of each Data-In.
Sink = Callable[[int, bytes | memoryview], None]


@dataclass(eq=False)
class Task:
    """What was asked, and, once it is done, the answer."""

    itt: int
    lun: int
    cdb: bytes
    edtl: int
    data_out: memoryview
    cmd_sn: int
    sink: Sink | None = None
    answer_r2t: bool = True

    done: bool = False
    response: int = 0
    status: int = 0xFF
    sense: bytes = b""
    underflow: int = 0
    overflow: int = 0
    data_in: bytearray = field(default_factory=bytearray)
    received: int = 0
    r2ts: list[Pdu] = field(default_factory=list)
    solicited_from: int = 0  # where the next R2T must begin
    data_in_pdus: int = 0
    burst: int = 0  # bytes of the Data-In sequence that has not ended

    @property
    def sense_key(self) -> int:
        return self.sense_triple[0]

    @property
    def sense_triple(self) -> tuple[int, int, int]:
        """Sense key, ASC, ASCQ, of either format; zeros if there is no sense data."""
        sense = self.sense.ljust(18, b"\0")
        if sense[0] & 0x7F in (0x72, 0x73):
            return sense[1] & 0x0F, sense[2], sense[3]
        return sense[2] & 0x0F, sense[12], sense[13]

    def take_data_in(self, pdu: Pdu, limits: Parameters) -> None:
        length = len(pdu.data)
        require(pdu.data_sn == self.data_in_pdus, "DataSN out of turn", pdu)
        require(pdu.buffer_offset == self.received, "Data-In out of order", pdu)
        require(length <= limits.receive_max, "longer than MaxRecvDataSegmentLength", pdu)
        require(self.received + length <= self.edtl, "more Data-In than was expected", pdu)
        self.data_in_pdus += 1
        self.burst += length
        within = self.burst <= limits.max_burst or not limits.check_bursts
        require(within, "a sequence longer than MaxBurstLength", pdu)
        if pdu.final:
            self.burst = 0
        if self.sink is not None:
            self.sink(self.received, pdu.data)
        else:
            self.data_in += pdu.data
        self.received += length
        if pdu.flags & 0x01:
            require(pdu.final, "status in the middle of a sequence", pdu)
            self._complete(pdu)

    def take_r2t(self, pdu: Pdu, limits: Parameters) -> None:
        end = pdu.buffer_offset + pdu.desired_length
        require(pdu.r2t_sn == len(self.r2ts), "R2TSN out of turn", pdu)
        require(pdu.buffer_offset == self.solicited_from, "R2T out of order", pdu)
        require(0 < pdu.desired_length <= limits.max_burst, "R2T of a wrong length", pdu)
        require(end <= len(self.data_out), "R2T for more data than there are", pdu)
        require(pdu.ttt != NO_TAG, "R2T without a tag", pdu)
        require(not len(pdu.data), "R2T with data", pdu)
        self.solicited_from = end
        self.r2ts.append(pdu)

    def take_response(self, pdu: Pdu) -> None:
        if pdu.response == 0:
            # RFC 3720 counts R2Ts too, RFC 7143 §11.4.8 no longer does.
            allowed = {self.data_in_pdus, self.data_in_pdus + len(self.r2ts)}
            require(pdu.exp_data_sn in allowed, f"ExpDataSN is not {self.data_in_pdus}", pdu)
        if len(pdu.data):
            length = int.from_bytes(pdu.data[:2])
            require(2 + length <= len(pdu.data), "sense data longer than the segment", pdu)
            self.sense = bytes(pdu.data[2 : 2 + length])
        self._complete(pdu)

    def _complete(self, pdu: Pdu) -> None:
        over, under = bool(pdu.flags & 0x04), bool(pdu.flags & 0x02)
        require(not (over and under), "overflow and underflow", pdu)
        require(bool(pdu.residual) == (over or under), "a residual and its flag disagree", pdu)
        self.response = 0 if pdu.opcode == Opcode.DATA_IN else pdu.response
        self.status = pdu.status
        self.overflow, self.underflow = over * pdu.residual, under * pdu.residual
        self.done = True


def require(holds: bool, complaint: str, pdu: Pdu) -> None:
    if not holds:
        raise ProtocolError(f"{complaint}: {pdu}")
