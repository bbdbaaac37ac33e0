"""The iSCSI target: its sessions, who may log in, and what becomes of an old session.

No socket here.  A :class:`Channel` (one TCP connection, from its first byte to its last) asks the
target to admit a login and gets a :class:`Session`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from target.block.pool import BufferPool, Share
from target.iscsi.chap import ChapPolicy
from target.iscsi.constants import AsyncEvent, LoginStatus
from target.iscsi.counters import IscsiCounters
from target.iscsi.errors import LoginRefused
from target.iscsi.flight import FlightLog
from target.iscsi.login_policy import ExistingSession, LoginIdentity
from target.iscsi.parameters import SessionParameters, TargetLimits
from target.iscsi.session import NoResources, Session, Window
from target.iscsi.throttle import LoginThrottle
from target.scsi.access_list import ALL, AccessList, Rights
from target.scsi.bus import SCSIBus
from target.scsi.countdown import countdown

if TYPE_CHECKING:
    from target.iscsi.channel import Channel

log = logging.getLogger(__name__)

TSIH_MAX: Final = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetOptions:
    """How a target treats its initiators."""

    queue_depth: int = 128
    sessions_max: int = 128
    login_timeout_seconds: float = 15.0
    nop_interval_seconds: float = 10.0
    nop_timeout_seconds: float = 10.0


class IscsiTarget:
    """One target name with its bus, portal group and sessions."""

    def __init__(
        self,
        name: str,
        bus: SCSIBus,
        pool: BufferPool,
        *,
        limits: TargetLimits,
        options: TargetOptions,
        random: Callable[[int], bytes],
        clock: Callable[[], float],
        chap: ChapPolicy | None = None,
        chap_discovery: ChapPolicy | None = None,
        alias: str = "lunmesh",
        tag: int = 1,
    ) -> None:
        self.name = name
        self.alias = alias
        self.bus = bus
        self.pool = pool
        self.limits = limits
        self.options = options
        self.random = random
        self.throttle = LoginThrottle(clock)
        self.counters = IscsiCounters()
        self._flights = FlightLog()
        self.sessions: dict[int, Session] = {}
        self.channels: dict[Session, Channel] = {}
        self.tag = tag  # of the portal group that all portals of a node are
        # For SendTargets: where its portals are, unless what initiators are to use instead is said;
        # and by tag where other nodes have theirs, for an initiator of this name.
        self.addresses: list[tuple[str, int]] = []
        self.advertised: list[str] = []
        self.other_portals: Callable[[str], Iterable[tuple[int, list[str]]]] = lambda _: ()
        self.access = AccessList()
        self.shutting_down = False
        self.cut_off = False  # from the other nodes: initiators are better off there
        self.on_session_end: Callable[[], None] | None = None
        self._chap = chap
        self._chap_discovery = chap_discovery
        self._last_tsih = 0
        self._ending: set[Session] = set()

    # --- login policy (target/iscsi/login.py) -----------------------------------------------------

    def target_exists(self, name: str) -> bool:
        """Whether this is the name of a target here; names are case folded (RFC 7143 4.2.7)."""
        return name.lower() == self.name.lower()

    def admits(self, initiator: str, target: str) -> bool:
        """Whether it may log in, as whomever: who it is, is not proved yet."""
        return self.access.admits(initiator)

    def authentication(self, initiator: str, target: str | None) -> ChapPolicy | None:
        """What proof is asked for; ``target`` is None for a discovery session."""
        return self._chap if target is not None else self._chap_discovery

    def portal_group_tag(self, target: str) -> int:
        """All portals of a node are one group."""
        return self.tag

    def attach(
        self, identity: LoginIdentity, parameters: SessionParameters, cmd_sn: int, channel: Channel
    ) -> Session:
        """The session of a login that is about to succeed (RFC 7143 6.3.5).

        TSIH 0 makes a new session, and ends an old one of the same initiator, ISID and target.  A
        TSIH names a session whose connection (same CID) is taken over; a second connection is
        refused.
        """
        if self.shutting_down:
            raise LoginRefused(LoginStatus.SERVICE_UNAVAILABLE, "shutting down")
        if self.cut_off and identity.target is not None:
            raise LoginRefused(LoginStatus.SERVICE_UNAVAILABLE, "cut off from the other nodes")
        proved = self._chap is None or identity.user in self._chap.users
        if identity.target is not None and not proved:  # the users changed while it logged in
            raise LoginRefused(LoginStatus.AUTHENTICATION_FAILURE, identity.initiator)
        if identity.tsih:
            return self._reinstate_connection(identity, channel)
        rights = self.access.rights(identity.initiator, identity.user)
        if identity.target is not None:
            if rights is None:
                raise LoginRefused(LoginStatus.AUTHORIZATION_FAILURE, identity.initiator)
            port = (identity.initiator, identity.isid)
            normal = [s for s in self.sessions.values() if s.nexus is not None]
            for old in normal:
                if (old.initiator, old.isid) == port and old not in self._ending:
                    log.info("session of %s is reinstated", old.initiator)
                    self.channels[old].supplanted()
            # Those that are ending count until a store has done with their last command.
            if sum(s.tsih in self.sessions for s in normal) >= self.options.sessions_max:
                raise LoginRefused(LoginStatus.OUT_OF_RESOURCES, "too many sessions")
        session = self._new_session(identity, parameters, cmd_sn, rights or ALL)
        self.sessions[session.tsih] = session
        self.channels[session] = channel
        return session

    def existing(self, identity: LoginIdentity) -> ExistingSession | None:
        """The session that a login with a TSIH wants to join."""
        session = self.sessions.get(identity.tsih)
        if (
            session is None
            or session.nexus is None
            or session in self._ending
            or (session.initiator, session.isid) != (identity.initiator, identity.isid)
        ):
            return None
        return ExistingSession(
            connections=(session.cid,),
            max_connections=self.limits.max_connections,
            exp_cmd_sn=session.exp_cmd_sn,
            max_cmd_sn=session.max_cmd_sn,
        )

    def _reinstate_connection(self, identity: LoginIdentity, channel: Channel) -> Session:
        """Connection reinstatement (RFC 7143 6.3.4)."""
        session = self.sessions[identity.tsih]
        if session.cid != identity.cid:
            raise LoginRefused(LoginStatus.TOO_MANY_CONNECTIONS, "MaxConnections is 1")
        self.channels[session].hand_over()
        session.held.clear()
        self.channels[session] = channel
        return session

    def _new_session(
        self, identity: LoginIdentity, parameters: SessionParameters, cmd_sn: int, rights: Rights
    ) -> Session:
        tsih = self._new_tsih()
        discovery = identity.target is None
        # A discovery session moves no data, and takes nothing from those that do.
        share = Share(self.pool) if discovery else self.pool.open_share()
        session = Session(
            tsih,
            identity.initiator,
            identity.isid,
            identity.cid,
            share,
            self.counters,
            self._flights,
        )
        session.exp_cmd_sn = cmd_sn
        session.user = identity.user
        if discovery:
            return session
        unasked = parameters.immediate_data or not parameters.initial_r2t
        first_burst = parameters.first_burst_length if unasked else 0
        depth, sessions_max = self.options.queue_depth, self.options.sessions_max
        try:
            session.window = Window(share, first_burst, depth, sessions_max, cmd_sn)
        except NoResources:
            share.close()
            raise LoginRefused(LoginStatus.OUT_OF_RESOURCES, "no buffers left") from None
        session.nexus = self.bus.connect(identity.initiator, identity.isid, rights)
        for other in self.sessions.values():
            if other.window is not None:
                other.window.rebalance()
        return session

    def _new_tsih(self) -> int:
        for _ in range(TSIH_MAX):
            self._last_tsih = self._last_tsih % TSIH_MAX + 1
            if self._last_tsih not in self.sessions:
                return self._last_tsih
        raise LoginRefused(LoginStatus.OUT_OF_RESOURCES, "no session handle left")

    # --- access -----------------------------------------------------------------------------------

    def set_access(self, access: AccessList, done: Callable[[], None]) -> None:
        """Go by another access list; ``done()`` when nothing runs that it forbids.

        A session that may not be any more is dropped; its initiator is told why when it is back.
        """
        self.access = access
        sessions = self._normal_sessions()
        one_done = countdown(len(sessions) + 1, done)
        for session in sessions:
            assert session.nexus is not None, "a normal session"
            rights = access.rights(session.initiator, session.user)
            channel = self.channels.get(session)
            if rights is not None:
                session.nexus.set_rights(rights, one_done)
            elif channel is not None and session not in self._ending:
                log.warning("%s may not be logged in any more", session.initiator)
                channel.supplanted(one_done)
            else:
                one_done()  # it ends already
        one_done()

    def set_chap(self, chap: ChapPolicy | None, done: Callable[[], None]) -> None:
        """Ask for other proof; ``done()`` when nothing runs of whom it shuts out.

        A session ends whose user is gone or has another secret, or that has proved nothing where
        proof is asked for now.
        """
        before = self._chap.users if self._chap is not None else {}
        now = chap.users if chap is not None else {}
        self._chap = chap
        if self._chap_discovery is not None:
            self._chap_discovery = chap
        sessions = self._normal_sessions()
        one_done = countdown(len(sessions) + 1, done)
        for session in sessions:
            user, channel = session.user, self.channels.get(session)
            if user is None:
                stands = chap is None
            else:
                stands = user in now and now[user] == before.get(user)
            if stands or channel is None or session in self._ending:
                one_done()
            else:
                log.warning("%s is not logged in as a CHAP user any more", session.initiator)
                channel.supplanted(one_done)
        one_done()

    def _normal_sessions(self) -> list[Session]:
        return [s for s in self.sessions.values() if s.nexus is not None]

    # --- discovery ------------------------------------------------------------------------------

    def records(
        self, name: str | None, arrived_at: tuple[str, int], initiator: str
    ) -> list[tuple[str, list[tuple[str, int]]]]:
        """SendTargets: (target name, [(address, portal group tag)]) (RFC 7143 appendix C).

        The portal through which the question came stands first: that one can be reached.  What is
        advertised stands in place of what this node knows of itself.  A target that the initiator
        may not log in to is none.
        """
        if name is not None and not self.target_exists(name):
            return []
        if not self.access.admits(initiator):
            return []
        spelled = [_spell(*arrived_at)]
        for host, port in self.addresses:
            if host not in _ANY and _spell(host, port) not in spelled:
                spelled.append(_spell(host, port))
        portals = [(address, self.tag) for address in self.advertised or spelled]
        for tag, addresses in self.other_portals(initiator):
            portals += [(address, tag) for address in addresses]
        return [(self.name, portals)]

    # --- the end --------------------------------------------------------------------------------

    def end(self, session: Session, done: Callable[[], None]) -> None:
        """A session is over: its tasks end, then its nexus and its buffers go."""
        if session in self._ending:
            return
        self._ending.add(session)
        self.channels.pop(session, None)

        def ended() -> None:
            self._ending.discard(session)
            self.sessions.pop(session.tsih, None)
            session.flight.kept.clear()
            if session.nexus is not None:
                session.share.close()
            done()
            if self.on_session_end is not None:
                self.on_session_end()

        if session.nexus is None:
            ended()
        else:
            self.bus.disconnect(session.nexus, ended)

    def cold_reset(self, done: Callable[[bool], None]) -> None:
        """TARGET COLD RESET: as a warm one, and then every session is dropped (RFC 7143 11.5.1)."""

        def dropped(sure: bool) -> None:
            done(sure)
            for channel in list(self.channels.values()):
                channel.announce(AsyncEvent.SESSION_DROPPED)
                channel.hang_up()

        self.bus.reset(dropped)

    def ask_to_log_out(self, seconds: int) -> None:
        """Tell every initiator that the target wants to stop (RFC 7143 11.9, event 1)."""
        self.shutting_down = True
        for channel in list(self.channels.values()):
            channel.announce(AsyncEvent.LOGOUT_REQUESTED, parameter3=seconds)

    @property
    def busy(self) -> bool:
        """Whether a command or an ending session is still there."""
        return bool(self._ending) or any(s.tasks or s.leaving for s in self.sessions.values())


_ANY: Final = frozenset({"0.0.0.0", "::"})


def _spell(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
