"""The iSCSI target: its sessions, who may log in, and what becomes of an old session.

No socket here.  A :class:`Channel` (one TCP connection, from its first byte to its last) asks the
target to admit a login and gets a :class:`Session`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Container, Iterable
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
from target.iscsi.targets import ServedTarget, TargetList
from target.iscsi.task_names import put_in_order
from target.iscsi.throttle import LoginThrottle
from target.scsi.access_list import AccessList, Rights
from target.scsi.bus import SCSIBus
from target.scsi.countdown import countdown

if TYPE_CHECKING:
    from target.iscsi.channel import Channel

log = logging.getLogger(__name__)

TSIH_MAX: Final = 0xFFFF
COLD_RESETS_MAX: Final = 64
COLD_RESET_BYTES: Final = 8  # random, of the name of one

LabelledPortal = tuple[str, str]
"""An address as SendTargets has it, and its label."""
PortalGroup = tuple[int, list[LabelledPortal]]
"""By its tag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetOptions:
    """How a target treats its initiators."""

    queue_depth: int = 128
    sessions_max: int = 128
    login_timeout_seconds: float = 15.0
    nop_interval_seconds: float = 10.0
    nop_timeout_seconds: float = 10.0


class IscsiTarget:
    """A node's targets with their bus, portal group and sessions.

    ``name`` is of the one that is there anyway; ``targets`` has them all.
    """

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
        self.targets = TargetList(ServedTarget(name))
        self.alias = alias
        put_in_order()
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
        # For SendTargets, each with its label: where the portals are, unless what initiators are to
        # use instead is said; and by tag where other nodes have theirs, for an initiator of this
        # name.
        self.addresses: list[tuple[str, int, str]] = []
        self.advertised: list[LabelledPortal] = []
        self.other_portals: Callable[[str], Iterable[PortalGroup]] = lambda _: ()
        self.access = AccessList()
        self.shutting_down = False
        self.cut_off = False  # from the other nodes: initiators are better off there
        self.on_session_end: Callable[[], None] | None = None
        self.on_sessions: Callable[[], None] = lambda: None  # there are others than before
        self._chap = chap
        self._chap_discovery = chap_discovery
        self._last_tsih = 0
        self._ending: dict[Session, list[Callable[[], None]]] = {}  # and who waits for its end
        self._cold_resets: deque[str] = deque(maxlen=COLD_RESETS_MAX)  # of other nodes, done here
        bus.on_cold_reset = self._reset_elsewhere

    # --- login policy (target/iscsi/login.py) -----------------------------------------------------

    def reached(self, name: str, group: str) -> ServedTarget | None:
        """The target of that name, if a portal with this label leads to it."""
        served = self.targets.find(name)
        return served if served is not None and served.at(group) else None

    def admits(self, initiator: str, target: ServedTarget) -> bool:
        """Whether it may log in, as whomever: who it is, is not proved yet."""
        return self.access.admits(initiator, target.name)

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
        served = self._served(identity)
        if identity.target is not None and not self._proved(identity):
            raise LoginRefused(LoginStatus.AUTHENTICATION_FAILURE, identity.initiator)
        if served is not None and not served.at(channel.group):  # it has left this portal meanwhile
            raise LoginRefused(LoginStatus.NOT_FOUND, served.name)
        if identity.tsih:
            return self._reinstate_connection(identity, channel)
        rights = None
        if served is not None:
            rights = self.access.rights(identity.initiator, identity.user, served.name)
            if rights is None:
                raise LoginRefused(LoginStatus.AUTHORIZATION_FAILURE, identity.initiator)
            port = _port_of(identity.initiator, identity.isid, served.key)
            normal = self._normal_sessions()
            for old in normal:
                if _port(old) == port and old not in self._ending:
                    log.info("session of %s is reinstated", old.initiator)
                    self.channels[old].supplanted()
            # Those that are ending count until a store has done with their last command.
            if sum(s.tsih in self.sessions for s in normal) >= self.options.sessions_max:
                raise LoginRefused(LoginStatus.OUT_OF_RESOURCES, "too many sessions")
        session = self._new_session(identity, parameters, cmd_sn)
        if served is not None and rights is not None:
            self._connect(session, parameters, rights, served.key)
        self.sessions[session.tsih] = session
        self.channels[session] = channel
        self.on_sessions()
        return session

    def _proved(self, identity: LoginIdentity) -> bool:
        """Whether its proof stands: users may have changed while it logged in."""
        if self._chap is None:
            return identity.user is None
        if identity.user is None or identity.secret is None:
            return False
        return self._chap.users.get(identity.user) == identity.secret

    def _served(self, identity: LoginIdentity) -> ServedTarget | None:
        """None: it is a discovery session."""
        if identity.target is None:
            return None
        served = self.targets.find(identity.target)
        if served is None:  # it has been deleted meanwhile
            raise LoginRefused(LoginStatus.NOT_FOUND, identity.target)
        return served

    def existing(self, identity: LoginIdentity) -> ExistingSession | None:
        """The session that a login with a TSIH wants to join."""
        session, served = self.sessions.get(identity.tsih), self._served(identity)
        if (
            session is None
            or served is None
            or session in self._ending
            or _port(session) != _port_of(identity.initiator, identity.isid, served.key)
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
        if session.user != identity.user:  # what it may do is another's
            raise LoginRefused(LoginStatus.AUTHORIZATION_FAILURE, identity.initiator)
        self.channels[session].hand_over()
        session.held.clear()
        session.skipped.clear()
        self.channels[session] = channel
        self.on_sessions()
        return session

    def _new_session(
        self, identity: LoginIdentity, parameters: SessionParameters, cmd_sn: int
    ) -> Session:
        # A discovery session moves no data, and takes nothing from those that do.
        share = Share(self.pool) if identity.target is None else self.pool.open_share()
        session = Session(
            self._new_tsih(),
            identity.initiator,
            identity.isid,
            identity.cid,
            share,
            self.counters,
            self._flights,
        )
        session.exp_cmd_sn = cmd_sn
        session.user = identity.user
        return session

    def _connect(
        self, session: Session, parameters: SessionParameters, rights: Rights, target: str
    ) -> None:
        """Give a session buffers and an I_T nexus."""
        unasked = parameters.immediate_data or not parameters.initial_r2t
        first_burst = parameters.first_burst_length if unasked else 0
        depth, sessions_max = self.options.queue_depth, self.options.sessions_max
        share = session.share
        try:
            session.window = Window(share, first_burst, depth, sessions_max, session.exp_cmd_sn)
        except NoResources:
            share.close()
            raise LoginRefused(LoginStatus.OUT_OF_RESOURCES, "no buffers left") from None
        session.nexus = self.bus.connect(session.initiator, session.isid, rights, target)
        for other in self.sessions.values():
            if other.window is not None:
                other.window.rebalance()

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
            target = self.targets.name_of(session.nexus.target) or ""
            rights = access.rights(session.initiator, session.user, target)
            if rights is not None and session in self.channels:
                session.nexus.set_rights(rights, one_done)
            else:
                self._drop(session, "%s may not be logged in any more", one_done)
        one_done()

    def set_targets(self, targets: TargetList, done: Callable[[], None]) -> None:
        """Serve others from now on; ``done()`` when nothing runs of those that are gone, or that
        the portal of their session does not lead to any more.
        """
        self.targets = targets
        sessions = self._normal_sessions()
        one_done = countdown(len(sessions) + 1, done)
        for session in sessions:
            assert session.nexus is not None, "a normal session"
            name, channel = targets.name_of(session.nexus.target), self.channels.get(session)
            if name is None:
                self._drop(session, "the target that %s is logged in to is deleted", one_done)
            elif channel is None or self.reached(name, channel.group) is None:
                self._drop(session, "%s is at a portal that its target has left", one_done)
            else:
                one_done()
        one_done()

    def _drop(self, session: Session, why: str, done: Callable[[], None]) -> None:
        if session in self._ending:
            self._ending[session].append(done)
        elif session in self.channels:
            log.warning(why, session.initiator)
            self.channels[session].supplanted(done)
        else:
            done()  # it has ended since it was looked up

    def set_chap(
        self, chap: ChapPolicy | None, done: Callable[[], None], made_anew: Container[str] = ()
    ) -> None:
        """Ask for other proof; ``done()`` when nothing runs of whom it shuts out.

        A session ends whose user is gone, or is another of the same name (``made_anew``), or that
        has proved nothing where proof is asked for now.
        """
        now = chap.users if chap is not None else {}
        self._chap = chap
        if self._chap_discovery is not None:
            self._chap_discovery = chap
        sessions = self._normal_sessions()
        one_done = countdown(len(sessions) + 1, done)
        for session in sessions:
            user = session.user
            if user is None:
                stands = chap is None
            else:
                stands = user in now and user not in made_anew
            if stands:
                one_done()
            else:
                self._drop(session, "%s is not logged in as a CHAP user any more", one_done)
        one_done()

    def sessions_of(self, target: str) -> int:
        """How many initiators are logged in to it."""
        return sum(_port(session)[2] == target for session in self.sessions.values())

    def _normal_sessions(self) -> list[Session]:
        return [s for s in self.sessions.values() if s.nexus is not None]

    # --- discovery ------------------------------------------------------------------------------

    def records(
        self, name: str | None, arrived_at: tuple[str, int], group: str, initiator: str
    ) -> list[tuple[str, list[tuple[str, int]]]]:
        """SendTargets: (target name, [(address, portal group tag)]) (RFC 7143 appendix C).

        The portal through which the question came, which has the label ``group``, stands first:
        that one can be reached.  What is advertised stands in place of what this node knows of
        itself.  A target that the initiator may not log in to, or not here, is none.
        """
        found = list(self.targets) if name is None else [self.targets.find(name)]
        portals = self.advertised or self._own_portals(arrived_at, group)
        groups = [(self.tag, portals), *self.other_portals(initiator)]
        return [
            (
                target.name,
                [(it, tag) for tag, those in groups for it, label in those if target.at(label)],
            )
            for target in found
            if target is not None and target.at(group) and self.admits(initiator, target)
        ]

    def _own_portals(self, arrived_at: tuple[str, int], group: str) -> list[LabelledPortal]:
        own = {_spell(*arrived_at): group}
        for host, port, label in self.addresses:
            if host not in _ANY:
                own.setdefault(_spell(host, port), label)
        return list(own.items())

    # --- the end --------------------------------------------------------------------------------

    def end(self, session: Session, done: Callable[[], None]) -> None:
        """A session is over: its tasks end, then its nexus and its buffers go."""
        if session in self._ending:
            self._ending[session].append(done)
            return
        self._ending[session] = [done]
        self.channels.pop(session, None)
        self.on_sessions()

        def ended() -> None:
            waiting = self._ending.pop(session)
            self.sessions.pop(session.tsih, None)
            session.flight.kept.clear()
            if session.nexus is not None:
                session.share.close()
            for each in waiting:
                each()
            if self.on_session_end is not None:
                self.on_session_end()

        if session.nexus is None:
            ended()
            return
        # Some may be of units that the nexus does not see any more: only the session knows of them.
        tasks = [*session.tasks.values(), *session.leaving]
        one_gone = countdown(len(tasks) + 1, ended)
        for task in tasks:
            task.attachment.unit.abort([task], one_gone)
        self.bus.disconnect(session.nexus, one_gone)

    def cold_reset(self, target: str, done: Callable[[bool], None]) -> None:
        """TARGET COLD RESET: as a warm one, then its sessions are dropped (RFC 7143 11.5.1).

        Other nodes drop theirs when they reset their units.
        """

        def reset(sure: bool) -> None:
            done(sure)
            self._drop_all(target)

        self.bus.reset(target, reset, self.random(COLD_RESET_BYTES).hex())

    def _reset_elsewhere(self, target: str, name: str) -> None:
        """Once for each reset: whoever is back before the last unit has been reset stays."""
        if name not in self._cold_resets:
            self._cold_resets.append(name)
            self._drop_all(target)

    def _drop_all(self, target: str) -> None:
        for session, channel in list(self.channels.items()):
            if session.nexus is None or session.nexus.target == target:
                channel.announce(AsyncEvent.SESSION_DROPPED)
                channel.hang_up()

    def end_nexus(self, initiator: str, isid: bytes, target: str, seconds: int) -> bool:
        """Ask an initiator to log out from a target, by its key; who has not done so after
        ``seconds`` is dropped.  False: there is no such session.
        """
        wanted = _port_of(initiator, isid, target)
        for session, channel in self.channels.items():
            if _port(session) == wanted:
                log.warning("session %d of %s is ended", session.tsih, initiator)
                channel.ask_to_log_out(seconds)
                return True
        return False

    def ask_to_log_out(self, seconds: int) -> None:
        """Tell every initiator that the target wants to stop (RFC 7143 11.9, event 1)."""
        self.shutting_down = True
        for channel in list(self.channels.values()):
            channel.announce(AsyncEvent.LOGOUT_REQUESTED, parameter3=seconds)

    @property
    def busy(self) -> bool:
        """Whether a command or an ending session is still there."""
        return bool(self._ending) or any(s.tasks or s.leaving for s in self.sessions.values())


def _port(session: Session) -> tuple[str, bytes, str | None]:
    """Whose session it is, and with which target."""
    nexus = session.nexus
    return _port_of(session.initiator, session.isid, nexus.target if nexus is not None else None)


def _port_of(initiator: str, isid: bytes, target: str | None) -> tuple[str, bytes, str | None]:
    """Case does not tell initiators apart (RFC 7143 4.2.7.1)."""
    return initiator.lower(), isid, target


_ANY: Final = frozenset({"0.0.0.0", "::"})


def _spell(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
