"""Connections before anybody serves them: looked at, and passed to the process that is to.

Rules:

1. All connections of an initiator go to one process (``target/rendezvous.py``), so that a login
   finds the sessions which it reinstates (RFC 7143 6.3.5), and tags stay as discovery told them.
2. Whom the first PDU does not name (``first_pdu.py``) the first process answers.
3. Nothing waits for longer than ``WAIT_SECONDS``, be it for the first PDU or for the process: then
   it goes to the first process, or its login is answered "service unavailable" (0301h), which
   initiators take for a reason to try again.
4. No more than ``WAITING_MAX`` wait: of more, the one that came first has waited long enough.
5. Nothing is taken from the socket (MSG_PEEK): the process reads it all from the first byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Sequence
from functools import partial
from typing import Final, Protocol

from target.iscsi.constants import BHS_LENGTH, LoginStatus
from target.iscsi.listener import Listener
from target.iscsi.pdu import frame
from target.iscsi.requests import LoginRequest
from target.iscsi.responses import LoginResponse
from target.processes.first_pdu import FIRST_PDU_BYTES_MAX, initiator_of
from target.rendezvous import process_of

log = logging.getLogger(__name__)

WAIT_SECONDS: Final = 5.0
WAITING_MAX: Final = 256
LOOK_SECONDS: Final = 0.05  # between two looks at what waits


class Door(Protocol):
    """A process that serves connections."""

    def give(self, sock: socket.socket, portal: int) -> bool:
        """Pass a connection; False: not now.  The caller closes its own descriptor of it."""


class _Waiting:
    """A connection that nobody serves yet."""

    def __init__(self, sock: socket.socket, portal: int, until: float) -> None:
        self.sock = sock
        self.portal = portal
        self.until = until
        self.door: Door | None = None  # None: who logs in is not known yet
        self.awaited = False  # whether the loop tells of its first bytes


class Front:
    """The portals, with the processes ``doors`` behind them."""

    def __init__(self, doors: Sequence[Door]) -> None:
        self._doors = doors
        self._loop = asyncio.get_running_loop()
        self._listeners: list[Listener] = []
        self._waiting: dict[_Waiting, None] = {}  # the one that came first stands first
        self._tick: asyncio.TimerHandle | None = None

    def listen(self, bound: Sequence[socket.socket]) -> None:
        """With what ``bind`` has made, in the order of the portals.  Raises OSError."""
        for number, each in enumerate(bound):
            self._listeners.append(Listener(each, partial(self.take, number)))

    def close(self) -> None:
        """Take nothing any more, and drop what waits."""
        for listener in self._listeners:
            listener.close()
        for each in list(self._waiting):
            self._forget(each)
        if self._tick is not None:
            self._tick.cancel()

    def take(self, portal: int, sock: socket.socket, peer: str) -> None:
        """A connection from the address ``peer`` to the portal of this number."""
        sock.setblocking(False)
        new = _Waiting(sock, portal, time.monotonic() + WAIT_SECONDS)
        self._waiting[new] = None
        if len(self._waiting) > WAITING_MAX:  # rule 4
            log.warning("%d connections wait already, another comes from %s", WAITING_MAX, peer)
            self._give_up(next(iter(self._waiting)))
        self._look(new)
        if self._waiting and self._tick is None:
            self._tick = self._loop.call_later(LOOK_SECONDS, self._ticked)

    def _ticked(self) -> None:
        now = time.monotonic()
        for each in list(self._waiting):
            if now >= each.until:
                self._give_up(each)
            elif not each.awaited:
                self._look(each)
        self._tick = self._loop.call_later(LOOK_SECONDS, self._ticked) if self._waiting else None

    def _look(self, it: _Waiting) -> None:
        """Find out whose it is, if that is not known yet, and pass it."""
        if it.door is None:
            try:
                head = it.sock.recv(FIRST_PDU_BYTES_MAX, socket.MSG_PEEK)
            except BlockingIOError:
                it.awaited = True
                self._loop.add_reader(it.sock.fileno(), self._arrived, it)
                return
            except OSError:
                head = b""
            if not head:  # closed
                self._forget(it)
                return
            initiator = initiator_of(head)
            if initiator is None:
                return
            number = process_of(initiator, len(self._doors)) if initiator else 1  # rules 1 and 2
            it.door = self._doors[number - 1]
        if it.door.give(it.sock, it.portal):
            self._forget(it)

    def _arrived(self, it: _Waiting) -> None:
        self._await_no_more(it)
        self._look(it)

    def _await_no_more(self, it: _Waiting) -> None:
        if it.awaited:
            it.awaited = False
            self._loop.remove_reader(it.sock.fileno())

    def _give_up(self, it: _Waiting) -> None:
        """Rule 3."""
        self._await_no_more(it)
        if it.door is None:
            self._doors[0].give(it.sock, it.portal)
        elif not it.door.give(it.sock, it.portal):
            _refuse(it.sock)
        self._forget(it)

    def _forget(self, it: _Waiting) -> None:
        self._await_no_more(it)
        del self._waiting[it]
        it.sock.close()


def _refuse(sock: socket.socket) -> None:
    """Answer a login with 0301h.  What it sent is read first: unread, it would reset the answer."""
    with contextlib.suppress(OSError):
        head = sock.recv(FIRST_PDU_BYTES_MAX)
        if not initiator_of(head):  # nobody: there is no login to answer
            return
        request = LoginRequest.decode(head[:BHS_LENGTH], b"", b"")
        response = LoginResponse(
            isid=request.isid,
            tsih=request.tsih,
            initiator_task_tag=request.initiator_task_tag,
            stat_sn=0,
            exp_cmd_sn=request.cmd_sn,
            max_cmd_sn=request.cmd_sn,
            csg=request.csg,
            status=LoginStatus.SERVICE_UNAVAILABLE,
        )
        sock.sendmsg(frame(response, False, False))
