"""Sockets: the one place of the iSCSI frontend that does I/O.

One wake-up of a connection is one ``recv``, one pass over all PDUs that came, and one ``sendmsg``
of all answers.  There is no asyncio stream, task or future here; the loop calls ``_readable`` and
``_writable``.

Rules:

1. One scratch buffer serves all connections of the loop: what must outlive a pass is copied out.
2. Output that gathers outside of a pass (a store has finished) is sent at the end of the loop's
   turn, once for all that finished.
3. A connection whose output is not taken is not read either: with more than ``BACKLOG_BYTES_MAX``
   to send, or ``COPIED_BYTES_MAX`` of that outside of the buffer pool (pings, text and
   parameter data).
4. Nothing is dropped in the middle of a pass: what went wrong there is kept until its end.
5. uvloop calls a reader once more when its socket has an error, and then never again, be there
   bytes left or not: a tick looks for what such a last call has left behind.
6. An initiator that has one command at a time sends the next as soon as it has the answer.  It is
   expected then, and so is the answer where a worker or a disk has to give it (busy_poll.py).
7. The beginning of a PDU stays in the scratch buffer until another connection reads: most often
   the rest is what is read next.
8. Logins and discovery sessions ask for no secret, and keep nobody out: where there are as many
   connections as may be, the oldest of them makes room for another one.
9. A pass that takes longer than ``PASS_SECONDS_MAX``, of very many small PDUs, makes its connection
   read less at a time, until that is fast again: the others have their turns in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import socket
import sys
from collections.abc import Callable
from termios import TIOCOUTQ
from typing import Final

from target.iscsi.channel import CLOSED, CLOSING, Channel
from target.iscsi.connection import EARLY_FLUSH_BYTES
from target.iscsi.listener import Listener, bind
from target.iscsi.receiver import SCRATCH_BYTES, FramingError
from target.iscsi.target import IscsiTarget
from workers.busy_poll import BusyPoll

log = logging.getLogger(__name__)

BACKLOG_BYTES_MAX: Final = 4 << 20
COPIED_BYTES_MAX: Final = 256 << 10
IOVECS_MAX: Final = 1024  # IOV_MAX of Linux
TICK_SECONDS: Final = 0.5
# Rule 6: a worker, or a disk, takes so many times as long as an initiator by itself.
ELSEWHERE_TIMES: Final = 4
# Rule 9.  No pass of less than this is too long.
PASS_SECONDS_MAX: Final = 0.02
PASS_BYTES_MIN: Final = 16384
NOTHING: Final = -1  # of a pass: nothing had come


class Portal:
    """One listening address of a target."""

    def __init__(
        self,
        target: IscsiTarget,
        host: str,
        port: int,
        clock: Callable[[], float],
        connections_max: int,
        poll: BusyPoll | None = None,
        group: str = "",
    ) -> None:
        self.target = target
        self.host = host
        self.port = port
        self.group = group  # its label: some targets are limited to some
        self.clock = clock
        self.loop = asyncio.get_running_loop()
        # In memory from the start: else it would seem to be what the first busy session takes.
        self.scratch = memoryview(bytearray(b"\0") * SCRATCH_BYTES)
        self.channels: dict[SocketChannel, None] = {}  # the oldest first
        self.on_drop: Callable[[], None] | None = None  # told of every connection that is gone
        self.poll = poll if poll is not None else BusyPoll(0.0)
        self.resting: SocketChannel | None = None  # who has the beginning of a PDU in `scratch`
        self._connections_max = connections_max
        self._listener: Listener | None = None
        self._dirty: dict[SocketChannel, None] = {}
        self._tick: asyncio.TimerHandle | None = None

    def start(self, bound: socket.socket | None = None) -> None:
        """Listen, with what :func:`bind` has made or with a new one; raises OSError.

        ``port`` becomes the real one if it was 0.
        """
        self._listener = Listener(bound or bind(self.host, self.port), self.take)
        self.port = self._listener.port
        self.begin()

    def begin(self) -> None:
        """Serve the connections that come to ``take``, without listening for any."""
        self._tick = self.loop.call_later(TICK_SECONDS, self._ticked)

    def take(self, sock: socket.socket, peer: str) -> None:
        """A connection from the address ``peer``, accepted here or in another process."""
        if len(self.channels) >= self._connections_max:
            self.target.counters.connections_refused += 1
            if not self._make_room():
                log.warning("refused %s: %d connections already", peer, len(self.channels))
                sock.close()
                return
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self.channels[SocketChannel(self, sock, peer)] = None
        except OSError as exc:  # it is gone already
            log.warning("connection from %s: %s", peer, exc)
            sock.close()

    def _make_room(self) -> bool:
        """Rule 8."""
        for channel in self.channels:
            if not channel.channel.has_nexus:
                log.warning("dropped %s: %d connections", channel.channel.peer, len(self.channels))
                channel.drop("its place is needed")
                return True
        return False

    def schedule(self, channel: SocketChannel) -> None:
        """Rule 2."""
        if not self._dirty:
            self.loop.call_soon(self._flush_dirty)
        self._dirty[channel] = None

    def _flush_dirty(self) -> None:
        dirty, self._dirty = self._dirty, {}
        for channel in dirty:
            channel.answer()

    def _ticked(self) -> None:
        self._tick = self.loop.call_later(TICK_SECONDS, self._ticked)
        now = self.clock()
        for channel in list(self.channels):
            channel.tick(now)

    def stop_listening(self) -> None:
        """Take no new connections."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def drop_idle(self) -> None:
        """Drop the connections that have no session with commands: nobody has to be asked."""
        for channel in list(self.channels):
            if not channel.channel.has_nexus:
                channel.drop(CLOSING)

    def drop_all(self, reason: str) -> None:
        """Drop the connections that there are; others may come."""
        for channel in list(self.channels):
            channel.drop(reason)

    def close(self) -> None:
        """Drop everything."""
        self.stop_listening()
        if self._tick is not None:
            self._tick.cancel()
        self.drop_all(CLOSING)


class SocketChannel:
    """A connected socket and the protocol channel behind it."""

    def __init__(self, portal: Portal, sock: socket.socket, peer: str) -> None:
        self._portal = portal
        self._sock = sock
        self._fd = sock.fileno()
        local = sock.getsockname()
        self.channel = Channel(
            portal.target,
            self.output_ready,
            peer,
            (local[0], local[1]),
            portal.clock(),
            portal.group,
        )
        self._in_pass = False
        self._flushing = False
        self._reading = True
        self._writing = False
        self._gone = False
        self._read_max = SCRATCH_BYTES  # bytes at a time
        self._broken: str | None = None  # rule 4: why it has to be dropped
        portal.loop.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        poll = self._portal.poll
        poll.came(self)
        self._expect(self._pass())

    def _expect(self, ended: int) -> None:
        """Rule 6, after so many commands have ended."""
        if ended == 1:
            self._portal.poll.expect(look=self._look)
        elif not ended and self.channel.waits_for_one:
            self._portal.poll.expect(ELSEWHERE_TIMES)

    def _look(self) -> bool:
        if self._gone or self._writing:
            return True
        ended = self._pass()
        if ended == NOTHING:
            return False
        self._has_answered(ended)
        return True

    def _has_answered(self, ended: int) -> None:
        if not self._gone:
            self._portal.poll.came(self)
            self._expect(ended)

    def _pass(self) -> int:
        """Read and answer what has come: the number of commands that have ended, or NOTHING."""
        channel = self.channel
        portal = self._portal
        scratch = portal.scratch
        if portal.resting is not self and portal.resting is not None:
            portal.resting.settle()
        try:
            buffers = channel.receiver.buffers(scratch)
            if self._read_max < SCRATCH_BYTES:
                buffers[-1] = buffers[-1][: self._read_max]
            if len(buffers) == 1:
                nbytes = self._sock.recv_into(buffers[0])
            else:
                nbytes = self._sock.recvmsg_into(buffers)[0]
        except (BlockingIOError, InterruptedError):
            return NOTHING
        except OSError as exc:
            self.drop(exc.strerror or str(exc))
            return 0
        if not nbytes:
            self.drop(CLOSED)
            return 0
        channel.now = portal.clock()
        self._in_pass = True
        try:
            channel.received(scratch, nbytes)
        except Exception as error:
            self._fail(error)
            return 0
        finally:
            self._in_pass = False
        portal.resting = self if channel.receiver.unfinished else None
        if nbytes >= PASS_BYTES_MIN:
            seconds = portal.clock() - channel.now
            if seconds > PASS_SECONDS_MAX or self._read_max < SCRATCH_BYTES:
                self._adapt(nbytes, seconds)
        commands = len(channel.ended)
        if self._broken is not None:
            self.drop(self._broken)
        else:
            self.flush()
        return commands

    def _adapt(self, nbytes: int, seconds: float) -> None:
        """Rule 9, after a pass of so many bytes."""
        if seconds > PASS_SECONDS_MAX:
            self._read_max = max(PASS_BYTES_MIN, int(nbytes * PASS_SECONDS_MAX / seconds))
        elif nbytes >= self._read_max and 2 * seconds <= PASS_SECONDS_MAX:
            self._read_max = min(SCRATCH_BYTES, 2 * self._read_max)

    def settle(self) -> None:
        """Another connection uses the scratch buffer from now on (rule 7)."""
        self._portal.resting = None
        try:
            self.channel.receiver.settle(self._portal.scratch)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """What has come cannot be handled."""
        if isinstance(error, FramingError):
            self.drop(str(error))
            return
        # A bug of ours: this connection is out of step, the node is not.
        log.error("internal error on the connection from %s", self.channel.peer, exc_info=error)
        self.drop("internal error")

    def output_ready(self) -> None:
        """There is something to send."""
        if not self._in_pass:
            self._portal.schedule(self)
        elif not self._writing and self.channel.sender.backlog > EARLY_FLUSH_BYTES:
            self.flush()

    def answer(self) -> None:
        """Send what has gathered outside of a pass."""
        ended = len(self.channel.ended)
        self.flush()
        if ended:
            self._has_answered(ended)

    def flush(self) -> None:
        """Send what there is, as far as the socket takes it."""
        if self._flushing or self._gone or self._broken is not None:
            return
        self._flushing = True
        try:
            self._send()
        except (BlockingIOError, InterruptedError):
            self._wait_to_write()
            return
        except OSError as exc:
            self._break(exc.strerror or errno.errorcode.get(exc.errno or 0, "send failed"))
            return
        except Exception:
            # A bug of ours, in what goes on once bytes have left: see _readable.
            log.exception("internal error on the connection from %s", self.channel.peer)
            self._break("internal error")
            return
        finally:
            self._flushing = False
            if self.channel.ended:
                self.channel.count_ended(self._portal.clock())
        if self._writing:
            self._portal.loop.remove_writer(self._fd)
            self._writing = False
        if not self._reading:
            self._reading = True
            self._portal.loop.add_reader(self._fd, self._readable)
        if self.channel.hanging_up and not self._in_pass:
            self.drop("")

    def _send(self) -> None:
        sender = self.channel.sender
        out = sender.out
        while out:
            sender.sent(self._sock.sendmsg(out if len(out) <= IOVECS_MAX else out[:IOVECS_MAX]))

    def _break(self, reason: str) -> None:
        """Rule 4."""
        if self._in_pass:
            self._broken = reason
        else:
            self.drop(reason)

    def _wait_to_write(self) -> None:
        loop = self._portal.loop
        if not self._writing:
            self._writing = True
            loop.add_writer(self._fd, self._writable)
        sender = self.channel.sender
        too_much = sender.backlog > BACKLOG_BYTES_MAX or sender.copied > COPIED_BYTES_MAX
        if self._reading and too_much:  # rule 3
            self._reading = False
            loop.remove_reader(self._fd)

    def _writable(self) -> None:
        channel = self.channel
        channel.now = self._portal.clock()
        gone = channel.sender.gone
        self.flush()
        if channel.sender.gone != gone:
            channel.progressed()

    def tick(self, now: float) -> None:
        """Timers: login, idle ping, dead peer."""
        if self._reading and self._is_readable():  # rule 5
            self._readable()
        if self._gone:
            return
        self.channel.now = now
        reason = self.channel.tick(now, self._undelivered())
        if reason:
            self.drop(reason)

    def _undelivered(self) -> int:
        """What the kernel has still, of a connection that has more to send: a slow one takes long
        to take as much as it asks for at a time.
        """
        if not self.channel.sender.backlog:
            return 0
        try:
            return int.from_bytes(fcntl.ioctl(self._fd, TIOCOUTQ, bytes(4)), sys.byteorder)
        except OSError:  # no socket that knows
            return 0

    def _is_readable(self) -> bool:
        """Whether there are bytes, the end of the connection or an error to be read."""
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True
        return True

    def drop(self, reason: str) -> None:
        """Close the socket and end what came through it."""
        if self._gone:
            return
        self._gone = True
        loop = self._portal.loop
        loop.remove_reader(self._fd)
        loop.remove_writer(self._fd)
        self._portal.channels.pop(self, None)
        self._portal.poll.forget(self)
        if self._portal.resting is self:
            self._portal.resting = None
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        try:
            self.channel.lost(reason)
        except Exception:  # a bug of ours: the others go on
            log.exception("internal error at the end of the connection from %s", self.channel.peer)
        if self._portal.on_drop is not None:
            self._portal.on_drop()
