"""All text keys of RFC 7143 chapter 13 (and the security keys of chapter 12) as a table.

The columns are those of the RFC: who sends a key and when, its scope, whether a discovery session
makes it irrelevant, the function that makes the result of the two sides' values, the range and the
default.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from target.iscsi import text
from target.iscsi.constants import LoginStage
from target.iscsi.errors import TextError
from target.iscsi.limits import DATA_SEGMENT_BYTES_FIELD_MAX

REJECT: Final = "Reject"
IRRELEVANT: Final = "Irrelevant"
NOT_UNDERSTOOD: Final = "NotUnderstood"
RESERVED_WORDS: Final = frozenset({REJECT, IRRELEVANT, NOT_UNDERSTOOD})
"""RFC 7143 6.2: answers only; as an offer they are a protocol error."""


class Rule(enum.Enum):
    """How the result of a key comes about."""

    AND = "and"
    OR = "or"
    MINIMUM = "min"
    MAXIMUM = "max"
    LIST = "first supported value of the offer"
    DECLARED = "declared, without an answer"
    REQUEST = "answered by a function of its own"
    OBSOLETE_BOOLEAN = "No"
    OBSOLETE = "Reject"


class Use(enum.Enum):
    """When a key may be sent."""

    SECURITY = "security negotiation"
    LOGIN = "any stage of the login"
    OPERATIONAL = "operational negotiation"
    AFTER_SECURITY = "operational negotiation and full feature phase"
    ALL = "any time"
    FULL_FEATURE = "full feature phase"

    def allowed(self, stage: LoginStage) -> bool:
        return stage in _STAGES[self]


_STAGES: Final[Mapping[Use, tuple[LoginStage, ...]]] = {
    Use.SECURITY: (LoginStage.SECURITY,),
    Use.LOGIN: (LoginStage.SECURITY, LoginStage.OPERATIONAL),
    Use.OPERATIONAL: (LoginStage.OPERATIONAL,),
    Use.AFTER_SECURITY: (LoginStage.OPERATIONAL, LoginStage.FULL_FEATURE),
    Use.ALL: tuple(LoginStage),
    Use.FULL_FEATURE: (LoginStage.FULL_FEATURE,),
}


class Sender(enum.Flag):
    INITIATOR = enum.auto()
    TARGET = enum.auto()
    BOTH = INITIATOR | TARGET


class Scope(enum.Enum):
    SESSION = "SW"
    CONNECTION = "CO"


@dataclass(frozen=True, slots=True)
class Key:
    """One row."""

    name: str
    rule: Rule
    use: Use
    scope: Scope = Scope.SESSION
    sender: Sender = Sender.BOTH
    leading_only: bool = False
    irrelevant_in_discovery: bool = False
    default: str | None = None
    low: int = 0
    high: int = 0

    def number(self, value: str) -> int:
        """A numerical value of this key, within its range."""
        return text.number(value, self.low, self.high)

    def valid(self, value: str) -> bool:
        """Whether a value has the form that this key's rule works on."""
        try:
            match self.rule:
                case Rule.AND | Rule.OR | Rule.OBSOLETE_BOOLEAN:
                    text.boolean(value)
                case Rule.MINIMUM | Rule.MAXIMUM:
                    self.number(value)
                case Rule.LIST:
                    text.items(value)
                case Rule.DECLARED if self.high:
                    self.number(value)
                case _:
                    text.simple(value)
        except TextError:
            return False
        return True


def _leading(
    name: str, rule: Rule, default: str, low: int = 0, high: int = 0, *, normal_only: bool = True
) -> Key:
    return Key(
        name,
        rule,
        Use.OPERATIONAL,
        leading_only=True,
        irrelevant_in_discovery=normal_only,
        default=default,
        low=low,
        high=high,
    )


def _declared(
    name: str, sender: Sender, use: Use, *, leading_only: bool = False, default: str | None = None
) -> Key:
    return Key(name, Rule.DECLARED, use, sender=sender, leading_only=leading_only, default=default)


def _security(name: str, rule: Rule = Rule.REQUEST) -> Key:
    return Key(name, rule, Use.SECURITY, Scope.CONNECTION)


_BYTES_LOW: Final = 512
_BYTES_HIGH: Final = DATA_SEGMENT_BYTES_FIELD_MAX

_ROWS: Final = (
    # 13.1: digests, per connection
    Key("HeaderDigest", Rule.LIST, Use.OPERATIONAL, Scope.CONNECTION, default="None"),
    Key("DataDigest", Rule.LIST, Use.OPERATIONAL, Scope.CONNECTION, default="None"),
    # 13.2 to 13.9, 13.21: names
    _leading("MaxConnections", Rule.MINIMUM, "1", 1, 65535),
    Key("SendTargets", Rule.REQUEST, Use.FULL_FEATURE, sender=Sender.INITIATOR),
    _declared("TargetName", Sender.BOTH, Use.LOGIN),
    _declared("InitiatorName", Sender.INITIATOR, Use.LOGIN),
    _declared("TargetAlias", Sender.TARGET, Use.ALL),
    _declared("InitiatorAlias", Sender.INITIATOR, Use.ALL),
    _declared("TargetAddress", Sender.TARGET, Use.ALL),
    _declared("TargetPortalGroupTag", Sender.TARGET, Use.LOGIN),
    _declared("SessionType", Sender.INITIATOR, Use.LOGIN, leading_only=True, default="Normal"),
    # 13.10 to 13.20: the session's parameters
    _leading("InitialR2T", Rule.OR, "Yes"),
    _leading("ImmediateData", Rule.AND, "Yes"),
    Key(
        "MaxRecvDataSegmentLength",
        Rule.DECLARED,
        Use.AFTER_SECURITY,
        Scope.CONNECTION,
        default="8192",
        low=_BYTES_LOW,
        high=_BYTES_HIGH,
    ),
    _leading("MaxBurstLength", Rule.MINIMUM, "262144", _BYTES_LOW, _BYTES_HIGH),
    _leading("FirstBurstLength", Rule.MINIMUM, "65536", _BYTES_LOW, _BYTES_HIGH),
    _leading("DefaultTime2Wait", Rule.MAXIMUM, "2", 0, 3600, normal_only=False),
    _leading("DefaultTime2Retain", Rule.MINIMUM, "20", 0, 3600, normal_only=False),
    _leading("MaxOutstandingR2T", Rule.MINIMUM, "1", 1, 65535),
    _leading("DataPDUInOrder", Rule.OR, "Yes"),
    _leading("DataSequenceInOrder", Rule.OR, "Yes"),
    _leading("ErrorRecoveryLevel", Rule.MINIMUM, "0", 0, 2, normal_only=False),
    # 13.23, 13.24
    _leading("TaskReporting", Rule.LIST, "RFC3720"),
    _leading("iSCSIProtocolLevel", Rule.MINIMUM, "1", 0, 31),
    # 13.25: obsolete.  "NotUnderstood" is forbidden for them.  For the marker switches the RFC
    # would rather see Reject but allows No, which is what initiators that still send them offer.
    Key("OFMarker", Rule.OBSOLETE_BOOLEAN, Use.OPERATIONAL, Scope.CONNECTION),
    Key("IFMarker", Rule.OBSOLETE_BOOLEAN, Use.OPERATIONAL, Scope.CONNECTION),
    Key("OFMarkInt", Rule.OBSOLETE, Use.OPERATIONAL, Scope.CONNECTION),
    Key("IFMarkInt", Rule.OBSOLETE, Use.OPERATIONAL, Scope.CONNECTION),
    # 12: security
    _security("AuthMethod", Rule.LIST),
    _security("CHAP_A"),
    _security("CHAP_I"),
    _security("CHAP_C"),
    _security("CHAP_N"),
    _security("CHAP_R"),
)

KEYS: Final[Mapping[str, Key]] = {key.name: key for key in _ROWS}
