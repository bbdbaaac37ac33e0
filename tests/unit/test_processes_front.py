"""The front of several processes: whose a connection is, and what becomes of it meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop

from target.iscsi.constants import LoginStatus
from target.iscsi.listener import bind
from target.iscsi.pdu import LoginResponse, decode_response
from target.processes import front as front_module
from target.processes.front import Front
from target.processes.inlet import OPEN, SHUT, Inlet
from target.rendezvous import process_of
from tests.unit.test_first_pdu import login

WAIT_SECONDS = 30
SHORT_SECONDS = 0.1  # for a connection to wait, where a test is about the end of that
FIRST, SECOND = (
    next(name for n in range(99) if process_of(name := f"iqn.test:{n}", 2) == number)
    for number in (1, 2)
)


class Desk:
    """A process that keeps what it is given."""

    def __init__(self) -> None:
        self.open = True
        self.given: asyncio.Queue[tuple[int, socket.socket]] = asyncio.Queue()

    def give(self, sock: socket.socket, portal: int) -> bool:
        if self.open:
            self.given.put_nowait((portal, sock.dup()))
        return self.open

    async def next(self) -> tuple[int, socket.socket]:
        return await asyncio.wait_for(self.given.get(), WAIT_SECONDS)


class Hall:
    """A front with two portals and two processes."""

    def __init__(self) -> None:
        self.desks = [Desk(), Desk()]
        self.front = Front(self.desks)
        bound = [bind("127.0.0.1", 0) for _ in range(2)]
        self._addresses = [each.getsockname() for each in bound]
        self._clients: list[socket.socket] = []
        self.front.listen(bound)

    async def connect(self, portal: int = 0) -> socket.socket:
        client = socket.socket()
        self._clients.append(client)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, self._addresses[portal])
        return client

    async def close(self) -> None:
        self.front.close()
        for desk in self.desks:
            while not desk.given.empty():
                desk.given.get_nowait()[1].close()
        for client in self._clients:
            client.close()


async def receive(sock: socket.socket, size: int) -> bytes:
    """``size`` bytes, or what comes before the end."""
    sock.setblocking(False)
    found = b""
    while len(found) < size:
        async with asyncio.timeout(WAIT_SECONDS):
            more = await asyncio.get_running_loop().sock_recv(sock, size - len(found))
        if not more:
            break
        found += more
    return found


def run(test: Callable[[Hall], Awaitable[None]]) -> None:
    async def in_a_hall() -> None:
        async with hall() as it:
            await test(it)

    uvloop.run(in_a_hall())


@contextlib.asynccontextmanager
async def hall() -> AsyncIterator[Hall]:
    it = Hall()
    try:
        yield it
    finally:
        await it.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_module, "WAIT_SECONDS", SHORT_SECONDS)


def pdu(name: str) -> bytes:
    return login(f"InitiatorName={name}\0SessionType=Discovery\0".encode())


@pytest.mark.parametrize(("name", "desk"), [(FIRST, 0), (SECOND, 1), (SECOND.upper(), 1)])
def test_a_login_goes_to_the_process_of_its_name_with_all_its_bytes(name: str, desk: int) -> None:
    async def test(it: Hall) -> None:
        client = await it.connect(portal=1)
        client.send(pdu(name))
        portal, sock = await it.desks[desk].next()
        assert portal == 1
        assert await receive(sock, len(pdu(name))) == pdu(name)
        sock.send(b"answer")
        assert await receive(client, 6) == b"answer"
        sock.close()

    run(test)


def test_a_login_may_come_in_pieces() -> None:
    async def test(it: Hall) -> None:
        client = await it.connect()
        whole = pdu(SECOND)
        for at in range(0, len(whole), 16):
            client.send(whole[at : at + 16])
            await asyncio.sleep(0)  # the front has its turn
        _, sock = await it.desks[1].next()
        assert await receive(sock, len(whole)) == whole
        assert it.desks[0].given.empty()
        sock.close()

    run(test)


def test_rubbish_is_for_the_first_process() -> None:
    async def test(it: Hall) -> None:
        for rubbish in (b"GET / HTTP/1.1\r\n\r\n", login(b"SessionType=Discovery\0")):
            client = await it.connect()
            client.send(rubbish)
            _, sock = await it.desks[0].next()
            assert await receive(sock, len(rubbish)) == rubbish
            sock.close()

    run(test)


def test_a_login_is_held_for_a_process_that_is_away() -> None:
    async def test(it: Hall) -> None:
        it.desks[1].open = False
        early = await it.connect()
        early.send(pdu(SECOND))
        other = await it.connect()
        other.send(pdu(FIRST))
        (await it.desks[0].next())[1].close()  # which came later, and has not to wait
        assert it.desks[1].given.empty()
        it.desks[1].open = True
        (await it.desks[1].next())[1].close()

    run(test)


@pytest.mark.usefixtures("impatient")
def test_a_login_that_was_held_for_long_is_told_to_try_again() -> None:
    async def test(it: Hall) -> None:
        it.desks[1].open = False
        client = await it.connect()
        client.send(pdu(SECOND))
        answer = await receive(client, 1 << 16)  # to the end of the connection
        response = decode_response(answer, b"", b"")
        assert isinstance(response, LoginResponse)
        assert response.status == LoginStatus.SERVICE_UNAVAILABLE
        assert (response.isid, response.initiator_task_tag) == (b"\x80\0\0\0\0\1", 1)

    run(test)


@pytest.mark.usefixtures("impatient")
def test_who_says_nothing_is_for_the_first_process() -> None:
    async def test(it: Hall) -> None:
        silent, slow = await it.connect(), await it.connect()
        slow.send(pdu(SECOND)[:50])
        for _ in (silent, slow):
            (await it.desks[0].next())[1].close()

    run(test)


def test_of_too_many_the_first_has_waited_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_module, "WAITING_MAX", 2)

    async def test(it: Hall) -> None:
        clients = [await it.connect() for _ in range(3)]
        _, sock = await it.desks[0].next()
        assert sock.getpeername() == clients[0].getsockname()
        sock.close()
        clients[2].send(pdu(SECOND))  # the others go on
        (await it.desks[1].next())[1].close()

    run(test)


def test_what_waits_when_it_ends_is_closed() -> None:
    async def test(it: Hall) -> None:
        it.desks[1].open = False
        held, silent = await it.connect(), await it.connect()
        held.send(pdu(SECOND))
        last = await it.connect()
        last.send(pdu(FIRST))
        (await it.desks[0].next())[1].close()
        it.front.close()
        for client in (held, silent):
            with contextlib.suppress(ConnectionResetError):
                assert await receive(client, 1) == b""

    run(test)


# --- the other end -------------------------------------------------------------------------------


def test_an_inlet_gives_connections_to_their_portal() -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ended, taken = asyncio.Event(), asyncio.Queue[tuple[str, socket.socket, str]]()
        inlet = Inlet(theirs, ended.set)
        inlet.portals = [
            lambda sock, peer: taken.put_nowait(("a", sock, peer)),
            lambda sock, peer: taken.put_nowait(("b", sock, peer)),
        ]
        inlet.open("ready")
        assert ours.recv(100) == OPEN + b"ready"
        with socket.create_server(("127.0.0.1", 0)) as server:
            with (
                socket.create_connection(server.getsockname()) as client,
                server.accept()[0] as accepted,
            ):
                socket.send_fds(ours, [(1).to_bytes(2)], [accepted.fileno()])
                accepted.close()
                where, sock, peer = await asyncio.wait_for(taken.get(), WAIT_SECONDS)
                assert (where, peer) == ("b", "127.0.0.1")
                assert not sock.get_inheritable()
                sock.send(b"hello")
                assert await receive(client, 5) == b"hello"
                sock.close()
            inlet.shut()
            assert ours.recv(100) == SHUT
            with (
                socket.create_connection(server.getsockname()) as late,
                server.accept()[0] as accepted,
            ):
                socket.send_fds(ours, [(1).to_bytes(2)], [accepted.fileno()])
                accepted.close()
                assert await receive(late, 1) == b"", "it is served by nobody"
        assert taken.empty()
        assert not ended.is_set()
        ours.close()
        await asyncio.wait_for(ended.wait(), WAIT_SECONDS)
        inlet.close()

    uvloop.run(test())
