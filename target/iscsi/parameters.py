"""What a target offers, and what a login agreed on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from target.iscsi.errors import ConfigurationError
from target.iscsi.keys import KEYS

DIGESTS: Final = ("None", "CRC32C")


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetLimits:
    """What this target offers and supports; checked when it is built.

    A limit stricter than RFC 7143's default is offered by us where the initiator offers nothing.
    """

    max_recv_data_segment_length: int = 262144
    """Bytes that we take in one PDU (declared)."""
    max_burst_length: int = 1048576
    first_burst_length: int = 65536
    max_outstanding_r2t: int = 8
    initial_r2t: bool = False
    """True demands an R2T before any unsolicited Data-Out."""
    immediate_data: bool = True
    default_time2wait: int = 2
    default_time2retain: int = 0
    """Seconds; nothing is retained at ErrorRecoveryLevel 0."""
    error_recovery_level: int = 0
    max_connections: int = 1
    header_digests: tuple[str, ...] = DIGESTS
    data_digests: tuple[str, ...] = DIGESTS
    task_reporting: tuple[str, ...] = ("RFC3720",)
    protocol_level: int = 1
    """1 is RFC 7143, 2 would be RFC 7144."""

    def __post_init__(self) -> None:
        for key, value in self.numbers().items():
            row = KEYS[key]
            if not row.low <= value <= row.high:
                raise ConfigurationError(f"{key}={value} is not within {row.low} and {row.high}")
        if self.first_burst_length > self.max_burst_length:
            raise ConfigurationError("FirstBurstLength is above MaxBurstLength")
        for digests in (self.header_digests, self.data_digests):
            if not digests or not set(digests) <= set(DIGESTS):
                raise ConfigurationError(f"digests are one or more of {', '.join(DIGESTS)}")
        if not self.task_reporting:
            raise ConfigurationError("no TaskReporting value")

    def numbers(self) -> dict[str, int]:
        """The numerical limits by key."""
        return {
            "MaxRecvDataSegmentLength": self.max_recv_data_segment_length,
            "MaxBurstLength": self.max_burst_length,
            "FirstBurstLength": self.first_burst_length,
            "MaxOutstandingR2T": self.max_outstanding_r2t,
            "DefaultTime2Wait": self.default_time2wait,
            "DefaultTime2Retain": self.default_time2retain,
            "ErrorRecoveryLevel": self.error_recovery_level,
            "MaxConnections": self.max_connections,
            "iSCSIProtocolLevel": self.protocol_level,
        }

    def booleans(self) -> dict[str, bool]:
        """The boolean limits by key; data arrives and leaves in order, always."""
        return {
            "InitialR2T": self.initial_r2t,
            "ImmediateData": self.immediate_data,
            "DataPDUInOrder": True,
            "DataSequenceInOrder": True,
        }

    def lists(self) -> dict[str, tuple[str, ...]]:
        """The supported values of the lists by key."""
        return {
            "HeaderDigest": self.header_digests,
            "DataDigest": self.data_digests,
            "TaskReporting": self.task_reporting,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionParameters:
    """The results of a login (RFC 7143 chapter 13); the defaults are the RFC's.

    Lengths are bytes, times seconds.
    """

    max_recv_data_segment_length: int = 8192
    """Ours: what the initiator may send in one PDU."""
    max_send_data_segment_length: int = 8192
    """The initiator's: what we may send in one PDU."""
    header_digest: bool = False
    data_digest: bool = False
    max_burst_length: int = 262144
    first_burst_length: int = 65536
    initial_r2t: bool = True
    immediate_data: bool = True
    max_outstanding_r2t: int = 1
    data_pdu_in_order: bool = True
    data_sequence_in_order: bool = True
    default_time2wait: int = 2
    default_time2retain: int = 20
    error_recovery_level: int = 0
    max_connections: int = 1
    task_reporting: str = "RFC3720"
    protocol_level: int = 1

    def joined_to(self, session: SessionParameters) -> SessionParameters:
        """These of a further connection (TSIH not 0) and the session-wide ones of its session."""
        return replace(
            session,
            max_recv_data_segment_length=self.max_recv_data_segment_length,
            max_send_data_segment_length=self.max_send_data_segment_length,
            header_digest=self.header_digest,
            data_digest=self.data_digest,
        )
