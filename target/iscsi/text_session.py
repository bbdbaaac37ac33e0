"""Text negotiation in the full feature phase: SendTargets and redeclared lengths (RFC 7143 11.10,
11.11, Appendix C).

Theory of operation.  One exchange at a time: a request with the reserved Target Transfer Tag begins
a new one and forgets what was left of the last; every other request has to carry the tag of our
last response and the task tag of the exchange.

1. Requests with the C bit are collected (answered by empty responses with F=0) until they are
   whole.
2. An answer longer than the initiator takes in one PDU goes out in parts with C=1, F=0 and a tag;
   the initiator fetches each further part by an empty request with that tag.
3. F=1 is said only to an F=1 (11.11.1) and when nothing is left to send.
4. A redeclared MaxRecvDataSegmentLength holds from the end of the exchange.
5. SendTargets=All is for discovery sessions; with nothing behind it, for normal ones; with a name,
   a normal session learns of its own target only (Appendix C).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from target.iscsi import serial, text
from target.iscsi.constants import RESERVED_TAG, LoginStage, RejectReason
from target.iscsi.errors import NegotiationError, PduError, TextError
from target.iscsi.keys import KEYS, NOT_UNDERSTOOD, REJECT, RESERVED_WORDS, Rule, Sender
from target.iscsi.limits import TEXT_ANSWER_BYTES_MAX, TEXT_KEYS_MAX
from target.iscsi.requests import TextRequest
from target.iscsi.text import Pairs

Portals = Sequence[tuple[str, int]]
"""Addresses (``host:port``, IPv6 in brackets) with their portal group tags."""
Targets = Callable[[str | None], Sequence[tuple[str, Portals]]]
"""The targets that this initiator may see: all of them, or the one of that name (or none)."""

_FFP: Final = LoginStage.FULL_FEATURE


@dataclass(frozen=True, slots=True, kw_only=True)
class TextReply:
    """What to put into a Text Response with the same Initiator Task Tag and LUN."""

    final: bool
    continued: bool
    target_transfer_tag: int
    data: bytes
    max_send_data_segment_length: int | None = None
    """The initiator's new MaxRecvDataSegmentLength, when the exchange that declared it is over."""


class TextSession:
    """The text exchanges of one connection."""

    def __init__(self, targets: Targets, *, discovery: bool, target: str | None) -> None:
        self._targets = targets
        self._discovery = discovery
        self._target = target
        self._last_tag = 0
        self._reset()

    def _reset(self) -> None:
        self._task_tag: int | None = None
        self._tag = RESERVED_TAG
        self._assembler = text.TextAssembler()
        self._unsent = text.Outgoing()
        self._seen: set[str] = set()
        self._declared_length: int | None = None

    def receive(self, request: TextRequest, max_send_data_segment_length: int) -> TextReply:
        """The answer to one Text Request; PduError means a Reject and the end of the exchange."""
        try:
            return self._step(request, max_send_data_segment_length)
        except PduError:
            self._reset()
            raise
        except TextError as exc:
            self._reset()
            raise PduError(RejectReason.PROTOCOL_ERROR, str(exc)) from exc

    def _step(self, request: TextRequest, size_max: int) -> TextReply:
        if request.target_transfer_tag == RESERVED_TAG:
            self._reset()
            self._task_tag = request.initiator_task_tag
        elif (request.target_transfer_tag, request.initiator_task_tag) != (
            self._tag,
            self._task_tag,
        ):
            raise PduError(RejectReason.INVALID_PDU_FIELD, "no text exchange has these tags")
        if request.final and request.continued:
            raise PduError(RejectReason.PROTOCOL_ERROR, "both F and C")
        if self._unsent:
            if request.data or request.continued:
                raise NegotiationError("text where our answer was still to be fetched")
        else:
            pairs = self._assembler.add(request.data, request.continued)
            if pairs is None:
                return self._reply(b"", final=False, continued=False)
            answer = text.encode(self._answers(pairs))
            if len(answer) > TEXT_ANSWER_BYTES_MAX:
                raise PduError(RejectReason.LONG_OPERATION_REJECT, "too many targets to list")
            self._unsent = text.Outgoing(answer)
        data = self._unsent.take(size_max)
        return self._reply(
            data, final=request.final and not self._unsent, continued=bool(self._unsent)
        )

    def _reply(self, data: bytes, *, final: bool, continued: bool) -> TextReply:
        if final:
            declared = self._declared_length
            self._reset()
            return TextReply(
                final=True,
                continued=False,
                target_transfer_tag=RESERVED_TAG,
                data=data,
                max_send_data_segment_length=declared,
            )
        # A tag of its own for every response: a request that comes twice is found out.
        self._last_tag = serial.add(self._last_tag)
        if self._last_tag == RESERVED_TAG:
            self._last_tag = 1
        self._tag = self._last_tag
        return TextReply(final=False, continued=continued, target_transfer_tag=self._tag, data=data)

    def _answers(self, pairs: Pairs) -> Pairs:
        answers: Pairs = []
        for name, value in pairs:
            if name in self._seen:
                raise NegotiationError(f"{name} comes twice")
            self._seen.add(name)
            if len(self._seen) > TEXT_KEYS_MAX:
                raise NegotiationError(f"more than {TEXT_KEYS_MAX} keys")
            if name == "SendTargets":
                answers += self._send_targets(value)
            elif (answer := self._answer(name, value)) is not None:
                answers.append((name, answer))
        return answers

    def _answer(self, name: str, value: str) -> str | None:
        if value in RESERVED_WORDS:
            raise NegotiationError(f"{name}={value} is not an offer")
        key = KEYS.get(name)
        if key is None:
            return NOT_UNDERSTOOD
        allowed = key.use.allowed(_FFP) and Sender.INITIATOR in key.sender
        if not allowed or key.rule is not Rule.DECLARED or not key.valid(value):
            # Keys of the login cannot be changed any more (chapter 13: LO and IO).
            return REJECT
        if name == "MaxRecvDataSegmentLength":
            self._declared_length = key.number(value)
        return None

    def _send_targets(self, value: str) -> Pairs:
        if self._discovery:
            if not value:
                return [("SendTargets", REJECT)]
            found = self._targets(None if value == "All" else text.simple(value))
        elif value in ("", self._target) and self._target is not None:
            found = self._targets(self._target)
        else:
            return [("SendTargets", REJECT)]
        answers: Pairs = []
        for name, portals in found:
            answers.append(("TargetName", name))
            answers += (("TargetAddress", f"{address},{tag}") for address, tag in portals)
        return answers
