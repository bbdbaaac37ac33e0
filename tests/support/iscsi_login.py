"""A login policy and an initiator to drive ``target.iscsi.login.Login`` with, for tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from target.iscsi import text
from target.iscsi.chap import ChapPolicy
from target.iscsi.constants import LoginStage, LoginStatus
from target.iscsi.errors import LoginRefused
from target.iscsi.login import (
    Established,
    ExistingSession,
    Login,
    LoginComplete,
    LoginFailure,
    LoginIdentity,
)
from target.iscsi.parameters import SessionParameters, TargetLimits
from target.iscsi.pdu import LoginRequest, LoginResponse, decode_request, decode_response

TARGET = "iqn.2026-11.io.lunmesh:target"
INITIATOR = "iqn.2004-10.example.host:one"
ISID = bytes.fromhex("80a86fbf0000")

SECURITY, OPERATIONAL, FULL = (
    LoginStage.SECURITY,
    LoginStage.OPERATIONAL,
    LoginStage.FULL_FEATURE,
)


def counted_random(size: int) -> bytes:
    """Not random at all, so that an exchange can be foretold."""
    return bytes(range(1, size + 1))


@dataclass
class FakePolicy:
    """One target, open to all but one initiator."""

    chap: ChapPolicy | None = None
    chap_discovery: ChapPolicy | None = None
    sessions: dict[int, ExistingSession] = field(default_factory=dict)
    barred: str = "iqn.barred"
    refusal: LoginRefused | None = None
    """What ``establish`` answers with."""
    established: list[tuple[LoginIdentity, SessionParameters, int]] = field(default_factory=list)

    def target_exists(self, name: str) -> bool:
        return name == TARGET

    def admits(self, initiator: str, target: str) -> bool:
        return initiator != self.barred

    def authentication(self, initiator: str, target: str | None) -> ChapPolicy | None:
        return self.chap if target is not None else self.chap_discovery

    def portal_group_tag(self, target: str) -> int:
        return 7

    def session(self, identity: LoginIdentity) -> ExistingSession | None:
        return self.sessions.get(identity.tsih)

    def establish(
        self, identity: LoginIdentity, parameters: SessionParameters, exp_cmd_sn: int
    ) -> Established:
        if self.refusal is not None:
            raise self.refusal
        self.established.append((identity, parameters, exp_cmd_sn))
        if identity.tsih:
            old = self.sessions[identity.tsih]
            return Established(
                tsih=identity.tsih, exp_cmd_sn=old.exp_cmd_sn, max_cmd_sn=old.max_cmd_sn
            )
        return Established(tsih=0x1234, exp_cmd_sn=exp_cmd_sn, max_cmd_sn=exp_cmd_sn + 31)


Keys = Mapping[str, str] | list[tuple[str, str]] | bytes


class Initiator:
    """Sends Login Requests through the codec, both ways, and keeps what came back."""

    def __init__(
        self,
        policy: FakePolicy | None = None,
        limits: TargetLimits | None = None,
        *,
        tsih: int = 0,
        cid: int = 1,
        cmd_sn: int = 100,
        stat_sn: int = 5000,
    ) -> None:
        self.policy = policy or FakePolicy()
        self.login = Login(
            self.policy, limits or TargetLimits(), random=counted_random, stat_sn=stat_sn
        )
        self.request = LoginRequest(
            isid=ISID,
            tsih=tsih,
            initiator_task_tag=0xABCD,
            cid=cid,
            cmd_sn=cmd_sn,
            exp_stat_sn=0,
            csg=0,
        )
        self.responses: list[LoginResponse] = []

    def send(
        self,
        csg: int,
        keys: Keys,
        *,
        nsg: int | None = None,
        continued: bool = False,
        **fields: int | bytes,
    ) -> LoginResponse:
        """One request (with the T bit if there is an ``nsg``) and the response to it."""
        data = keys if isinstance(keys, bytes) else text.encode(dict(keys).items())
        if isinstance(keys, list):
            data = text.encode(keys)
        changes: dict[str, object] = {
            "csg": csg,
            "nsg": nsg or 0,
            "transit": nsg is not None,
            "continued": continued,
            "data": data,
            **fields,
        }
        made = dataclasses.replace(self.request, **changes)  # type: ignore[arg-type]
        request = decode_request(made.encode_header(), b"", data)
        assert isinstance(request, LoginRequest)
        (answer,) = self.login.receive(request)
        response = decode_response(answer.encode_header(), b"", answer.data)
        assert isinstance(response, LoginResponse)
        self.responses.append(response)
        return response

    def keys(self) -> dict[str, str]:
        """The keys of the last response, each of which may come once only."""
        pairs = text.decode(self.responses[-1].data)
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    def complete(self) -> LoginComplete:
        assert isinstance(self.login.outcome, LoginComplete), self.login.outcome
        return self.login.outcome

    def failed(self) -> LoginStatus:
        """The status of the refusal, on the wire and in the outcome."""
        outcome = self.login.outcome
        assert isinstance(outcome, LoginFailure), outcome
        last = self.responses[-1]
        assert last.status == outcome.status
        assert not last.transit
        return outcome.status


def names(**more: str) -> dict[str, str]:
    """The keys that every first request of a normal session has."""
    return {
        "InitiatorName": INITIATOR,
        "TargetName": TARGET,
        "SessionType": "Normal",
        **more,
    }
