"""The operational negotiation of a login, as a walk through the table of ``keys`` (RFC 7143 6.2).

Theory of operation.  The initiator offers and declares; :meth:`Negotiation.receive` answers.

1. A key is offered or declared once in a login; again is an error that ends it (6.3).  One mercy:
   the same declaration again is let pass, for libiscsi (QEMU's initiator) says all names again in
   the operational stage when it has been through CHAP.
2. A key at the wrong stage, or from the wrong side, ends the login.
3. The words Reject, Irrelevant and NotUnderstood are answers; as an offer they end the login.
4. A key that is not in the table gets NotUnderstood; one that a discovery session makes irrelevant
   gets Irrelevant; an offer that is malformed or out of range gets Reject and leaves the default.
5. Of a list, the first value that we support wins, whatever we would like better.
6. A declaration gets no answer; a malformed one ends the login, for there is no way to refuse it.
7. Where our limit is stricter than the default and the initiator is silent, we offer, once, and the
   login cannot be completed until the initiator has answered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from target.iscsi import text
from target.iscsi.constants import LoginStage
from target.iscsi.errors import NegotiationError
from target.iscsi.keys import (
    IRRELEVANT,
    KEYS,
    NOT_UNDERSTOOD,
    REJECT,
    RESERVED_WORDS,
    Key,
    Rule,
    Sender,
)
from target.iscsi.parameters import SessionParameters, TargetLimits
from target.iscsi.text import Pairs

__all__ = ["Negotiation", "SessionParameters", "TargetLimits"]

# Rule 7: the keys with a default that can be looser than our limit.  (DefaultTime2Retain too, but a
# target may always forget a session early at ErrorRecoveryLevel 0.)
_OURS_TO_OFFER: Final = (
    "HeaderDigest",
    "DataDigest",
    "ImmediateData",
    "MaxBurstLength",
    "FirstBurstLength",
)


class Negotiation:
    """One login's operational keys and declarations; security keys go elsewhere."""

    def __init__(self, limits: TargetLimits, *, leading: bool = True) -> None:
        self._limits = limits
        self._leading = leading
        self._numbers = limits.numbers()
        self._booleans = limits.booleans()
        self._lists = limits.lists()
        self._seen: set[str] = set()
        self._declared: dict[str, str] = {}
        self._results: dict[str, str] = {}
        self._asked: dict[str, str] = {}
        self._introduced = False

    def declared(self, name: str) -> str | None:
        """What the initiator declared (InitiatorName, TargetName, SessionType …)."""
        return self._declared.get(name)

    @property
    def discovery(self) -> bool:
        return self._declared.get("SessionType") == "Discovery"

    def settled(self) -> bool:
        """Whether no offer of ours waits for its answer (rule 7)."""
        return not self._asked

    def receive(self, stage: LoginStage, pairs: Iterable[tuple[str, str]]) -> Pairs:
        """Our answers to the keys of one whole request."""
        answers: Pairs = []
        # SessionType decides what is irrelevant, and MaxBurstLength bounds FirstBurstLength: they
        # are read first, wherever they stand.
        ordered = sorted(pairs, key=lambda pair: _PRECEDENCE.get(pair[0], 2))
        for name, value in ordered:
            answer = self._receive(stage, name, value)
            if answer is not None:
                answers.append((name, answer))
        if stage is LoginStage.OPERATIONAL and not self._introduced:
            self._introduced = True
            answers += self._introduction()
        return answers

    def _receive(self, stage: LoginStage, name: str, value: str) -> str | None:
        if name in self._asked:
            self._answered(name, value)
            return None
        if value in RESERVED_WORDS:
            raise NegotiationError(f"{name}={value} is not an offer")
        key = KEYS.get(name)
        if name in self._seen:
            if key is not None and self._declared.get(name) == value:
                return None
            raise NegotiationError(f"{name} comes twice")
        self._seen.add(name)
        if key is None:
            return NOT_UNDERSTOOD
        if not key.use.allowed(stage):
            raise NegotiationError(f"{name} does not belong into the stage {stage.name}")
        if Sender.INITIATOR not in key.sender:
            raise NegotiationError(f"{name} is for a target to send")
        if key.leading_only and not self._leading and key.rule is not Rule.DECLARED:
            # A SessionType said again on a further connection harms nobody.
            raise NegotiationError(f"{name} belongs to the leading login of a session")
        if key.rule is Rule.DECLARED:
            if not key.valid(value):
                raise NegotiationError(f"{name} is declared with a value out of its range")
            self._declared[name] = value
            return None
        if self.discovery and key.irrelevant_in_discovery:
            return IRRELEVANT
        answer = self._result(key, value) if key.valid(value) else None
        if answer is None:
            return REJECT
        self._results[name] = answer
        return answer

    def _result(self, key: Key, offer: str) -> str | None:
        """The outcome of a well-formed offer; None to reject it."""
        name = key.name
        match key.rule:
            case Rule.AND:
                return text.from_boolean(text.boolean(offer) and self._booleans[name])
            case Rule.OR:
                return text.from_boolean(text.boolean(offer) or self._booleans[name])
            case Rule.MINIMUM:
                ours = self._numbers[name]
                if name == "FirstBurstLength":
                    # 13.14: FirstBurstLength MUST NOT exceed MaxBurstLength.
                    ours = min(ours, self._number("MaxBurstLength"))
                return str(min(key.number(offer), ours))
            case Rule.MAXIMUM:
                return str(max(key.number(offer), self._numbers[name]))
            case Rule.LIST:
                supported = self._lists[name]
                return next((item for item in text.items(offer) if item in supported), None)
            case Rule.OBSOLETE_BOOLEAN:
                return "No"
            case _:
                return None

    def _introduction(self) -> Pairs:
        """What we say unasked in our first operational answer."""
        ours: Pairs = [("MaxRecvDataSegmentLength", str(self._limits.max_recv_data_segment_length))]
        for name, offer in self._stricter():
            if name not in self._seen:
                self._asked[name] = offer
                ours.append((name, offer))
        return ours

    def _stricter(self) -> Pairs:
        """What we would offer: the keys without a result whose default is beyond our limit."""
        found: Pairs = []
        for name in _OURS_TO_OFFER:
            key = KEYS[name]
            default = key.default
            assert default is not None
            barred = (key.leading_only and not self._leading) or (
                key.irrelevant_in_discovery and self.discovery
            )
            if name in self._results or barred:
                continue
            if key.rule is Rule.LIST:
                if default not in self._lists[name]:
                    # Digests: there is one that is not the default.
                    found.append((name, self._lists[name][0]))
            elif key.rule is Rule.MINIMUM:
                # A FirstBurstLength beyond a MaxBurstLength below its default is not worth an
                # offer: the smaller one holds anyway.
                if self._numbers[name] < key.number(default):
                    found.append((name, self._result(key, default) or default))
            elif not self._booleans[name]:
                found.append((name, "No"))
        return found

    def _answered(self, name: str, value: str) -> None:
        """The initiator's answer to an offer of ours."""
        key, ours = KEYS[name], self._asked.pop(name)
        self._seen.add(name)
        fits = key.valid(value)
        if fits and key.rule is Rule.MINIMUM:
            fits = key.number(value) <= key.number(ours)
        elif fits:
            fits = value == ours
        if not fits:
            raise NegotiationError(f"{name} was answered with something that we did not offer")
        self._results[name] = value

    def _number(self, name: str) -> int:
        key = KEYS[name]
        assert key.default is not None
        return key.number(self._results.get(name, key.default))

    def _boolean(self, name: str) -> bool:
        return text.boolean(self._results.get(name, KEYS[name].default or "No"))

    def _digest(self, name: str) -> bool:
        return self._results.get(name) == "CRC32C"

    def parameters(self) -> SessionParameters:
        """What was agreed on; to be called when the login is complete."""
        for name, _ in self._stricter():
            # Its offer was rejected, or there was no operational stage to negotiate in.
            raise NegotiationError(f"{name} is left at a default that is beyond our limit")
        max_burst = self._number("MaxBurstLength")
        send = KEYS["MaxRecvDataSegmentLength"]
        return SessionParameters(
            # A login that never entered the operational stage has told the initiator nothing.
            max_recv_data_segment_length=(
                self._limits.max_recv_data_segment_length if self._introduced else 8192
            ),
            max_send_data_segment_length=send.number(self._declared.get(send.name, "8192")),
            header_digest=self._digest("HeaderDigest"),
            data_digest=self._digest("DataDigest"),
            max_burst_length=max_burst,
            # MaxBurstLength may have come in a later request and be smaller.
            first_burst_length=min(self._number("FirstBurstLength"), max_burst),
            initial_r2t=self._boolean("InitialR2T"),
            immediate_data=self._boolean("ImmediateData"),
            max_outstanding_r2t=self._number("MaxOutstandingR2T"),
            data_pdu_in_order=self._boolean("DataPDUInOrder"),
            data_sequence_in_order=self._boolean("DataSequenceInOrder"),
            default_time2wait=self._number("DefaultTime2Wait"),
            default_time2retain=self._number("DefaultTime2Retain"),
            error_recovery_level=self._number("ErrorRecoveryLevel"),
            max_connections=self._number("MaxConnections"),
            task_reporting=self._results.get("TaskReporting", "RFC3720"),
            protocol_level=self._number("iSCSIProtocolLevel"),
        )


_PRECEDENCE: Final = {"SessionType": 0, "MaxBurstLength": 1}
