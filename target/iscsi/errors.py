"""The exceptions of the iSCSI protocol code; whose fault it is stands in the type.

::

    IscsiError
    ├── ProtocolViolation            the initiator's fault, answered on the wire
    │   ├── PduError                 one PDU is wrong: Reject with a reason
    │   ├── TextError                malformed key=value text, or past its bounds
    │   │   └── NegotiationError     well-formed text that breaks the negotiation's rules
    │   └── ChapError                a CHAP exchange out of order or malformed
    ├── LoginRefused                 a login ends with this status
    └── ConfigurationError           our operator's fault: found before any initiator comes
"""

from __future__ import annotations

from target.iscsi.constants import LoginStatus, RejectReason


class IscsiError(Exception):
    """Anything that the iSCSI code raises on purpose."""


class ProtocolViolation(IscsiError):
    """What the peer sent breaks RFC 7143 or a bound of ours."""


class PduError(ProtocolViolation):
    """A PDU that has to be rejected (RFC 7143 11.17)."""

    def __init__(self, reason: RejectReason, text: str) -> None:
        super().__init__(f"{reason.name}: {text}")
        self.reason = reason
        self.text = text


class TextError(ProtocolViolation):
    """Text that cannot be read as key=value pairs (RFC 7143 6.1)."""


class NegotiationError(TextError):
    """Readable text that breaks the rules of negotiation (RFC 7143 6.2)."""


class ChapError(ProtocolViolation):
    """A CHAP step that is out of order or malformed (RFC 7143 12.1.3)."""


class LoginRefused(IscsiError):
    """The login is over, with this status."""

    def __init__(self, status: LoginStatus, text: str = "", *, moved_to: str | None = None) -> None:
        super().__init__(f"{status.name} ({status:#06x}): {text}")
        self.status = status
        self.text = text
        self.moved_to = moved_to
        """With the two "target moved" statuses: the TargetAddress that the initiator is told."""


class ConfigurationError(IscsiError):
    """The target was configured with something that it cannot use."""
