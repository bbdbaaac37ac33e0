"""The login phase of one connection, as the target sees it (RFC 7143 6.3, 11.12, 11.13).

Theory of operation.  :class:`Login` is fed every Login Request in turn and returns the responses to
send; when ``outcome`` is set, the login is over.  It knows no socket and no clock: the login
timeout and the closing of the connection are the caller's.

The stages and the ways between them (T bit, CSG, NSG)::

    ── CSG 0 ──▶ SECURITY ──0→1──▶ OPERATIONAL ──1→3──▶ full feature phase
    ── CSG 1 ─────────────────────▶ OPERATIONAL
                 SECURITY ───────────0→3──────────────▶ full feature phase

Rules:

1. A request with the C bit is answered by an empty response until its text is whole.  An answer of
   more than a PDU goes out with the C bit of ours, against empty requests.
2. The first whole text names the initiator, the session type and (in a normal session) the target.
   Everything that depends on them is decided there and then.
3. The T bit is granted if the stage has nothing left to do, else answered with T=0.
4. Every response uses up a StatSN (11.13.4).  Login Requests are immediate: the CmdSN of the
   leading login becomes ExpCmdSN and stays so.
5. ``establish`` is the last thing asked of the policy, right before the final response is made.
6. The first error ends the login, with its status; every state but the outcome is then void.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from target.iscsi import serial, text
from target.iscsi.authentication import SecurityStage
from target.iscsi.constants import PROTOCOL_VERSION, LoginStage, LoginStatus
from target.iscsi.errors import ChapError, LoginRefused, NegotiationError, ProtocolViolation
from target.iscsi.keys import KEYS, Use
from target.iscsi.limits import LOGIN_DATA_SEGMENT_BYTES_MAX, LOGIN_PDUS_MAX
from target.iscsi.login_policy import (
    Established,
    ExistingSession,
    LoginComplete,
    LoginFailure,
    LoginIdentity,
    LoginPolicy,
)
from target.iscsi.negotiation import Negotiation
from target.iscsi.parameters import TargetLimits
from target.iscsi.requests import LoginRequest
from target.iscsi.responses import LoginResponse
from target.iscsi.text import Pairs

__all__ = [
    "Established",
    "ExistingSession",
    "Login",
    "LoginComplete",
    "LoginFailure",
    "LoginIdentity",
    "LoginPolicy",
]

_NEXT_STAGES: Mapping[int, tuple[int, ...]] = {
    LoginStage.SECURITY: (LoginStage.OPERATIONAL, LoginStage.FULL_FEATURE),
    LoginStage.OPERATIONAL: (LoginStage.FULL_FEATURE,),
}


class Login:
    """One login."""

    def __init__(
        self,
        policy: LoginPolicy,
        limits: TargetLimits,
        *,
        random: Callable[[int], bytes],
        stat_sn: int = 0,
        algorithms: Mapping[int, str] | None = None,
    ) -> None:
        self._policy = policy
        self._limits = limits
        self._random = random
        self._algorithms = algorithms
        self._stat_sn = stat_sn
        self._exp_cmd_sn = 0
        self._max_cmd_sn = 0
        self._stage = LoginStage.SECURITY
        self._first: LoginRequest | None = None
        self._requests = 0
        self._assembler = text.TextAssembler()
        self._negotiation = Negotiation(limits)
        self._identity: LoginIdentity | None = None
        self._security: SecurityStage | None = None
        self._unsent = text.Outgoing()
        self.outcome: LoginComplete | LoginFailure | None = None

    @property
    def stat_sn(self) -> int:
        """Of the next response."""
        return self._stat_sn

    def receive(self, request: LoginRequest) -> list[LoginResponse]:
        """The responses to one Login Request; see ``outcome`` afterwards."""
        assert self.outcome is None, "the login is over"
        try:
            return [self._step(request)]
        except LoginRefused as exc:
            refusal = exc
        except ChapError as exc:
            refusal = LoginRefused(LoginStatus.AUTHENTICATION_FAILURE, str(exc))
        except ProtocolViolation as exc:
            refusal = LoginRefused(LoginStatus.INITIATOR_ERROR, str(exc))
        return self._fail(request, refusal)

    def refuse(
        self, status: LoginStatus, why: str, request: LoginRequest | None = None
    ) -> list[LoginResponse]:
        """End the login from outside: a PDU that is no Login Request (INVALID_DURING_LOGIN), a
        throttled address or a target that shuts down (SERVICE_UNAVAILABLE)."""
        assert self.outcome is None, "the login is over"
        return self._fail(request or self._first, LoginRefused(status, why))

    # --- one request ----------------------------------------------------------------------------

    def _step(self, request: LoginRequest) -> LoginResponse:
        self._check(request)
        if self._unsent:
            if request.data or request.continued:
                raise NegotiationError("text where our answer was still to be fetched")
            return self._reply(request)
        pairs = self._assembler.add(request.data, request.continued)
        if pairs is None:
            return self._response(request)
        self._unsent = text.Outgoing(text.encode(self._answers(request, pairs)))
        return self._reply(request)

    def _check(self, request: LoginRequest) -> None:
        """The header, against the RFC and against the requests before."""
        if request.version_min > PROTOCOL_VERSION:
            raise LoginRefused(
                LoginStatus.UNSUPPORTED_VERSION, f"at least version {request.version_min}"
            )
        self._requests += 1
        if self._requests > LOGIN_PDUS_MAX:
            raise NegotiationError(f"more than {LOGIN_PDUS_MAX} Login Requests")
        if len(request.data) > LOGIN_DATA_SEGMENT_BYTES_MAX:
            raise NegotiationError(f"{len(request.data)} bytes in one Login Request")
        following = _NEXT_STAGES.get(request.csg)
        if following is None:
            raise NegotiationError(f"current stage {request.csg}")
        if request.transit and request.nsg not in following:
            raise NegotiationError(f"transit from stage {request.csg} to {request.nsg}")
        if request.transit and request.continued:
            raise NegotiationError("both T and C")
        first = self._first
        if first is None:
            self._begin(request)
        elif request.csg != self._stage:
            raise NegotiationError(f"stage {request.csg} where {self._stage} is current")
        elif (request.isid, request.tsih, request.cid) != (first.isid, first.tsih, first.cid):
            raise NegotiationError("ISID, TSIH or CID changed during the login")

    def _begin(self, request: LoginRequest) -> None:
        self._first = request
        self._stage = LoginStage(request.csg)
        self._negotiation = Negotiation(self._limits, leading=request.tsih == 0)
        self._exp_cmd_sn = request.cmd_sn
        # A window of one until the session says more in the final response.
        self._max_cmd_sn = request.cmd_sn

    def _answers(self, request: LoginRequest, pairs: Pairs) -> Pairs:
        """The whole text of one request, answered."""
        security: Pairs = []
        others: Pairs = []
        for pair in pairs:
            key = KEYS.get(pair[0])
            (security if key and key.use is Use.SECURITY else others).append(pair)
        negotiated = self._negotiation.receive(self._stage, others)
        answers: Pairs = []
        if self._identity is None:
            self._identity = self._identify(request)
            if self._identity.target is not None:
                # 13.9: with the first response to a request that names the target.
                tag = self._policy.portal_group_tag(self._identity.target)
                answers.append(("TargetPortalGroupTag", str(tag)))
        if self._stage is LoginStage.SECURITY:
            assert self._security is not None
            answers += self._security.receive(security, transit=request.transit)
        elif security:
            raise NegotiationError(f"{security[0][0]} after the security stage")
        return answers + negotiated

    # --- who it is (rule 2) ---------------------------------------------------------------------

    def _identify(self, request: LoginRequest) -> LoginIdentity:
        declared = self._negotiation.declared
        initiator, target = declared("InitiatorName"), declared("TargetName")
        kind = declared("SessionType") or "Normal"
        if kind not in ("Normal", "Discovery"):
            raise LoginRefused(LoginStatus.SESSION_TYPE_NOT_SUPPORTED, f"SessionType={kind}")
        discovery = kind == "Discovery"
        if initiator is None:
            raise LoginRefused(LoginStatus.MISSING_PARAMETER, "no InitiatorName")
        text.iscsi_name(initiator)
        if discovery:
            target = None
        elif target is None:
            raise LoginRefused(LoginStatus.MISSING_PARAMETER, "no TargetName")
        else:
            text.iscsi_name(target)
            if not self._policy.target_exists(target):
                raise LoginRefused(LoginStatus.NOT_FOUND, target)
            if not self._policy.admits(initiator, target):
                raise LoginRefused(LoginStatus.AUTHORIZATION_FAILURE, initiator)
        identity = LoginIdentity(
            initiator=initiator,
            target=target,
            isid=request.isid,
            tsih=request.tsih,
            cid=request.cid,
            discovery=discovery,
            initiator_alias=declared("InitiatorAlias"),
        )
        if identity.tsih:
            self._join(identity)
        chap = self._policy.authentication(initiator, target)
        if chap is not None and self._stage is LoginStage.OPERATIONAL:
            raise LoginRefused(LoginStatus.AUTHENTICATION_FAILURE, "the security stage is skipped")
        self._security = SecurityStage(chap, self._random, self._algorithms)
        return identity

    def _join(self, identity: LoginIdentity) -> None:
        """A connection for a session that exists (TSIH not 0)."""
        session = self._policy.session(identity)
        if session is None:
            raise LoginRefused(LoginStatus.SESSION_DOES_NOT_EXIST, f"TSIH {identity.tsih}")
        reinstated = identity.cid in session.connections
        if not reinstated and len(session.connections) >= session.max_connections:
            raise LoginRefused(LoginStatus.TOO_MANY_CONNECTIONS, f"CID {identity.cid}")
        self._exp_cmd_sn, self._max_cmd_sn = session.exp_cmd_sn, session.max_cmd_sn

    # --- the answer -----------------------------------------------------------------------------

    def _reply(self, request: LoginRequest) -> LoginResponse:
        """The next PDU of our answer; with its last one the T bit, if it is due (rule 3)."""
        data = self._unsent.take(LOGIN_DATA_SEGMENT_BYTES_MAX)
        if self._unsent:
            return self._response(request, data, continued=True)
        if not (request.transit and self._stage_done()):
            return self._response(request, data)
        if request.nsg == LoginStage.FULL_FEATURE:
            return self._complete(request, data)
        response = self._response(request, data, transit=True)
        self._stage = LoginStage(request.nsg)
        return response

    def _stage_done(self) -> bool:
        if self._stage is LoginStage.SECURITY:
            return self._security is not None and self._security.done
        return self._negotiation.settled()

    def _complete(self, request: LoginRequest, data: bytes) -> LoginResponse:
        assert self._identity is not None
        assert self._security is not None
        if self._identity.tsih:
            self._join(self._identity)  # once more: the session may have ended meanwhile
        parameters = self._negotiation.parameters()
        identity = replace(
            self._identity,
            user=self._security.user,
            secret=self._security.secret,
            initiator_alias=self._negotiation.declared("InitiatorAlias"),
        )
        made = self._policy.establish(identity, parameters, self._exp_cmd_sn)
        self._exp_cmd_sn, self._max_cmd_sn = made.exp_cmd_sn, made.max_cmd_sn
        response = self._response(request, data, transit=True, tsih=made.tsih)
        self.outcome = LoginComplete(
            identity=identity,
            parameters=parameters,
            tsih=made.tsih,
            exp_cmd_sn=self._exp_cmd_sn,
            max_cmd_sn=self._max_cmd_sn,
            stat_sn=self._stat_sn,
        )
        return response

    def _response(
        self,
        request: LoginRequest,
        data: bytes = b"",
        *,
        transit: bool = False,
        continued: bool = False,
        tsih: int | None = None,
        status: LoginStatus = LoginStatus.SUCCESS,
    ) -> LoginResponse:
        stat_sn, self._stat_sn = self._stat_sn, serial.add(self._stat_sn)
        return LoginResponse(
            isid=request.isid,
            tsih=request.tsih if tsih is None else tsih,
            initiator_task_tag=request.initiator_task_tag,
            stat_sn=stat_sn,
            exp_cmd_sn=self._exp_cmd_sn,
            max_cmd_sn=self._max_cmd_sn,
            csg=request.csg,
            nsg=request.nsg if transit else 0,
            transit=transit,
            continued=continued,
            status=status,
            data=data,
        )

    def _fail(self, request: LoginRequest | None, refusal: LoginRefused) -> list[LoginResponse]:
        declared = self._negotiation.declared
        self.outcome = LoginFailure(
            status=refusal.status,
            text=refusal.text,
            initiator=declared("InitiatorName"),
            target=declared("TargetName"),
        )
        if request is None:
            return []
        moved = [("TargetAddress", refusal.moved_to)] if refusal.moved_to else []
        return [self._response(request, text.encode(moved), status=refusal.status)]
