"""One TCP connection from its first byte to its last, without the socket.

    LOGIN ──▶ FULL FEATURE ──▶ hanging up ──▶ lost

It owns the receiver and the sender, feeds the state machine of the phase it is in, and keeps the
timers: the portal calls ``tick`` now and then.

Rules for whoever has the socket:

1. ``wake`` only says that there is output; it may come in the middle of ``received``.
2. ``lost`` is never called in the middle of ``received``: a command in its first pass is not listed
   anywhere yet.  After it nothing is called any more.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from target.iscsi.connection import Connection
from target.iscsi.constants import (
    BHS_LENGTH,
    OPCODE_MASK,
    AsyncEvent,
    LoginStatus,
    Opcode,
    RejectReason,
)
from target.iscsi.endpoint import Endpoint
from target.iscsi.errors import PduError
from target.iscsi.limits import LOGIN_DATA_SEGMENT_BYTES_MAX
from target.iscsi.login import Established, ExistingSession, Login, LoginComplete, LoginIdentity
from target.iscsi.management import ping
from target.iscsi.parameters import SessionParameters
from target.iscsi.pdu import LoginRequest, TextRequest, TextResponse, decode_request
from target.iscsi.receiver import FramingError, Handler, Receiver
from target.iscsi.sender import Sender
from target.iscsi.session import Session
from target.iscsi.target import IscsiTarget
from target.iscsi.text_session import TextSession
from target.scsi.nexus import nobody_waits
from target.scsi.request import SCSIRequest
from target.scsi.stats import count

log = logging.getLogger(__name__)

HANG_UP_SECONDS_MAX: Final = 5.0  # for the last bytes to be taken
CLOSED: Final = "closed by the initiator"
CLOSING: Final = "the portal is closing"
_USUAL_ENDS: Final = ("", CLOSED, CLOSING)


class Channel:
    """One connection.  ``wake`` is called when there is output."""

    def __init__(
        self,
        target: IscsiTarget,
        wake: Callable[[], None],
        peer: str,
        local: tuple[str, int],
        now: float,
        group: str = "",
    ) -> None:
        """``group`` is the label of the portal that it came in by, at the address ``local``."""
        self.now = now
        self.peer = peer
        self.hanging_up = False
        self.closed = False
        self.endpoint: Endpoint | None = None
        self.session: Session | None = None
        self.ended: list[SCSIRequest] = []  # commands that are not counted yet
        self._kept: deque[SCSIRequest] = deque()  # the session's, once there is one
        self._bus = target.bus
        self.sender = Sender()
        target.counters.connections += 1
        handlers: list[Handler] = [self._not_a_login] * (OPCODE_MASK + 1)
        handlers[Opcode.LOGIN_REQUEST] = self._login_request
        self.receiver = Receiver(self, handlers, LOGIN_DATA_SEGMENT_BYTES_MAX)
        self._target = target
        self._wake = wake
        self._local = local
        self.group = group
        self._heard_at = now
        self._pinged_at = 0.0
        self._taken = 0  # bytes of our output, at the last look
        self._taken_at = now  # since when they are no more
        self._deadline = now + target.options.login_timeout_seconds
        self._logout_by: float | None = None  # it has been asked to, and is dropped then
        self._login: Login | None = Login(
            _Policy(target, self, group), target.limits, random=target.random
        )
        self._text: TextSession | None = None
        self._text_ends = 0  # where its last answer ends in what is sent

    @property
    def has_nexus(self) -> bool:
        """Whether an I_T nexus hangs on this connection (not a login, not a discovery session)."""
        return self.session is not None and self.session.nexus is not None

    # --- bytes ----------------------------------------------------------------------------------

    @property
    def waits_for_one(self) -> bool:
        """Whether one command of the session is not answered yet, and no more."""
        return self.session is not None and len(self.session.tasks) == 1

    def received(self, scratch: memoryview, nbytes: int) -> None:
        """``nbytes`` have been read into ``receiver.buffers(scratch)``.  Raises FramingError."""
        if self.closed:
            return
        self._heard_at = self.now
        endpoint = self.endpoint
        if endpoint is None:
            self.receiver.received(scratch, nbytes)
            if self.endpoint is not None:
                self.endpoint.end_pass()  # somebody did not wait for the end of the login
            return
        endpoint.in_pass = True
        try:
            self.receiver.received(scratch, nbytes)
            endpoint.end_pass()
        finally:
            endpoint.in_pass = False

    def progressed(self) -> None:
        """The initiator takes what we send: a sign of life like any other."""
        self._heard_at = self.now

    def count_ended(self, now: float) -> None:
        """The answers of ``ended`` have been given to the socket, or to nobody any more."""
        ended = self.ended
        failed = count(ended, now)
        self._kept += ended
        if failed and self.session is not None:
            self.session.flight.failed(failed, now)
        watcher = self._bus.watcher
        if watcher is not None:
            watcher.ended(ended, now)
        ended.clear()

    def output_ready(self) -> None:
        """There is output: the portal sends it after this pass."""
        self._wake()

    # --- login ----------------------------------------------------------------------------------

    def _login_request(self, buf: memoryview, at: int, data_at: int, length: int) -> None:
        assert self._login is not None
        if self.hanging_up:
            return
        try:
            request = decode_request(
                bytes(buf[at : at + BHS_LENGTH]),
                bytes(buf[at + BHS_LENGTH : data_at]),
                bytes(buf[data_at : data_at + length]),
            )
        except PduError as exc:
            raise FramingError(f"malformed login: {exc}") from exc
        assert isinstance(request, LoginRequest)
        if not self._target.throttle.allowed(self.peer):
            responses = self._login.refuse(
                LoginStatus.SERVICE_UNAVAILABLE, "too many refused logins", request
            )
        else:
            responses = self._login.receive(request)
        for response in responses:
            self.sender.put(response)
        self.output_ready()
        outcome = self._login.outcome
        if isinstance(outcome, LoginComplete):
            self._enter_full_feature_phase(outcome)
        elif outcome is not None:
            log.warning(
                "login from %s (%s) refused: %s %s",
                self.peer,
                outcome.initiator or "unnamed",
                outcome.status.name,
                outcome.text,
            )
            self._target.throttle.ended(self.peer, outcome.status)
            self._target.counters.logins_refused[outcome.status] += 1
            self.hang_up()

    def _not_a_login(self, buf: memoryview, at: int, data_at: int, length: int) -> None:
        """RFC 7143 6.3: anything else in the login phase ends the connection."""
        if self.hanging_up:
            return
        assert self._login is not None
        for response in self._login.refuse(
            LoginStatus.INVALID_DURING_LOGIN, f"opcode {buf[at] & OPCODE_MASK:#04x}"
        ):
            self.sender.put(response)
        self.output_ready()
        self.hang_up()

    def _enter_full_feature_phase(self, login: LoginComplete) -> None:
        session = self.session
        assert session is not None
        identity, parameters = login.identity, login.parameters
        if session.parameters is not None:  # a connection that was taken over (RFC 7143 6.3.4)
            parameters = parameters.joined_to(session.parameters)
        session.parameters = parameters
        self._login = None
        self._target.counters.logins += 1
        receiver, sender = self.receiver, self.sender
        receiver.data_bytes_max = parameters.max_recv_data_segment_length
        receiver.set_digests(header=parameters.header_digest, data=parameters.data_digest)
        sender.header_digest = parameters.header_digest
        sender.data_digest = parameters.data_digest
        sender.set_limits(parameters.max_send_data_segment_length, parameters.max_burst_length)
        sender.stat_sn = login.stat_sn
        served = None if identity.target is None else self._target.targets.find(identity.target)
        self._text = TextSession(
            lambda name: self._target.records(name, self._local, self.group, identity.initiator),
            discovery=identity.discovery,
            target=None if served is None else served.name,
        )
        if session.nexus is None:
            self.endpoint = Endpoint(session, receiver, sender, self)
        else:
            self.endpoint = Connection(session, receiver, sender, parameters, self)
            self.ended = self.endpoint.ended
            self._kept = session.flight.kept
            log.info("%s logged in from %s, session %d", session.initiator, self.peer, session.tsih)
        session.connection = self.endpoint

    # --- what the receiver's owner answers in the login phase ------------------------------------

    def open_data_out(self, buf: memoryview, at: int, length: int) -> list[memoryview] | None:
        """Data-Out: the endpoint's once there is one."""
        if self.endpoint is None:
            raise FramingError("a Data-Out in the login phase")
        return self.endpoint.open_data_out(buf, at, length)

    def close_data_out(self) -> None:
        """See :class:`PduOwner`."""
        assert self.endpoint is not None
        self.endpoint.close_data_out()

    def data_digest_error(self, buf: memoryview, at: int) -> None:
        """See :class:`PduOwner`."""
        assert self.endpoint is not None
        self.endpoint.data_digest_error(buf, at)

    # --- the shell of the endpoint ----------------------------------------------------------------

    def text(self, pdu: TextRequest) -> None:
        """Answer a Text Request, one at a time; raises PduError."""
        assert self._text is not None
        assert self.endpoint is not None
        assert self.session is not None
        if self.sender.gone < self._text_ends:
            # RFC 7143 11.10.  Answers are long: no more than one waits to be taken.
            raise PduError(RejectReason.PROTOCOL_ERROR, "one Text Request at a time")
        reply = self._text.receive(pdu, self.sender.data_bytes_max)
        self.endpoint.put(
            TextResponse(
                initiator_task_tag=pdu.initiator_task_tag,
                target_transfer_tag=reply.target_transfer_tag,
                lun=pdu.lun,
                stat_sn=self.sender.next_stat_sn(),
                exp_cmd_sn=self.session.exp_cmd_sn,
                max_cmd_sn=self.session.max_cmd_sn,
                final=reply.final,
                continued=reply.continued,
                data=reply.data,
            )
        )
        self._text_ends = self.sender.queued
        if reply.max_send_data_segment_length is not None:
            sender = self.sender
            sender.set_limits(reply.max_send_data_segment_length, sender.burst_bytes_max)

    def cold_reset(self, target: str, done: Callable[[bool], None]) -> None:
        """TARGET COLD RESET."""
        self._target.cold_reset(target, done)

    def announce(self, event: AsyncEvent, parameter3: int = 0) -> None:
        """An Async Message, where there is a session to tell."""
        if self.endpoint is not None and self.session is not None and not self.closed:
            self.endpoint.announce(event, parameter3=parameter3)

    def ask_to_log_out(self, seconds: int) -> None:
        """Who has not done so after ``seconds`` is dropped (RFC 7143 11.9, events 1 and 3)."""
        self.announce(AsyncEvent.LOGOUT_REQUESTED, parameter3=seconds)
        self._logout_by = self.now + seconds

    def hang_up(self) -> None:
        """Close once all output has gone, or when that takes too long."""
        if not self.hanging_up:
            self.hanging_up = True
            if self.endpoint is not None:
                self.endpoint.mute()
            self._deadline = self.now + HANG_UP_SECONDS_MAX
        self.output_ready()

    # --- the end --------------------------------------------------------------------------------

    def supplanted(self, done: Callable[[], None] | None = None) -> None:
        """The session ends, and ``done()``: another login has taken its place (RFC 7143 6.3.5), or
        its initiator may not be logged in any more.
        """
        session, self.session = self.session, None
        self._shut_endpoint()
        if session is not None:
            self._target.end(session, done or nobody_waits)
        self.hang_up()

    def hand_over(self) -> None:
        """Another connection takes our session over (RFC 7143 6.3.4): its tasks end."""
        self.session = None
        self._shut_endpoint()
        self.hang_up()

    def _shut_endpoint(self) -> None:
        self.closed = True
        if self.endpoint is not None:
            self.endpoint.close()

    def lost(self, reason: str) -> None:
        """The socket is gone."""
        session = self.session
        if self.ended:
            self.count_ended(self.now)
        if session is not None and reason not in _USUAL_ENDS:
            session.flight.dump(reason, tuple(session.tasks.values()), self.now)
        self.session = None
        self._shut_endpoint()
        self.sender.abandon()
        if session is None:
            return
        if session.nexus is not None:
            log.info("session %d of %s ended: %s", session.tsih, session.initiator, reason or "-")
        self._target.end(session, nobody_waits)

    def tick(self, now: float, undelivered: int = 0) -> str:
        """Why the connection has to be dropped now, or nothing.

        So many bytes of what has been sent are ``undelivered`` as yet.
        """
        options = self._target.options
        if self.hanging_up:
            return "the last bytes were not taken" if now > self._deadline else ""
        if self.endpoint is None:
            return "login timeout" if now > self._deadline else ""
        if self._logout_by is not None and now > self._logout_by:
            self.announce(AsyncEvent.SESSION_DROPPED)
            self.hang_up()
            return ""
        if not options.nop_interval_seconds:
            return ""
        if self._takes_nothing(now, undelivered):
            return "what it has asked for is not taken"
        if not self.has_nexus:
            # There is no NOP in a discovery session (RFC 7143 4.3).
            silent = now - self._heard_at
            bound = options.nop_interval_seconds + options.nop_timeout_seconds
            return "an idle discovery session" if silent > bound else ""
        if self.endpoint.pinging is not None:
            silent = now - max(self._pinged_at, self._heard_at)
            return "no answer to a ping" if silent > options.nop_timeout_seconds else ""
        if now - self._heard_at > options.nop_interval_seconds:
            self._pinged_at = now
            ping(self.endpoint)
        return ""

    def _takes_nothing(self, now: float, undelivered: int) -> bool:
        """Whether there has been output for long and none of it arrived.  Whoever still sends is
        alive, but does not keep the buffers in which that is.
        """
        sender, options = self.sender, self._target.options
        taken = sender.gone - undelivered
        if not sender.backlog or taken != self._taken:
            self._taken = taken
            self._taken_at = now
        bound = options.nop_interval_seconds + options.nop_timeout_seconds
        return now - self._taken_at > bound


class _Policy:
    """The target's answers to one connection's login."""

    def __init__(self, target: IscsiTarget, channel: Channel, group: str) -> None:
        self._target = target
        self._channel = channel
        self._group = group
        self.authentication = target.authentication
        self.portal_group_tag = target.portal_group_tag

    def target_exists(self, name: str) -> bool:
        return self._target.reached(name, self._group) is not None

    def admits(self, initiator: str, target: str) -> bool:
        served = self._target.reached(target, self._group)
        return served is not None and self._target.admits(initiator, served)

    def session(self, identity: LoginIdentity) -> ExistingSession | None:
        return self._target.existing(identity)

    def establish(
        self, identity: LoginIdentity, parameters: SessionParameters, exp_cmd_sn: int
    ) -> Established:
        session = self._target.attach(identity, parameters, exp_cmd_sn, self._channel)
        self._channel.session = session
        return Established(
            tsih=session.tsih, exp_cmd_sn=session.exp_cmd_sn, max_cmd_sn=session.max_cmd_sn
        )
