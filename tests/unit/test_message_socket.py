"""Messages over a socket: cut anywhere, too long, more than fit, and ends at every point."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from tests.support.messages import Messages
from workers.limits import LENGTH_BYTES, MESSAGE_BYTES_MAX
from workers.message_socket import BUFFER_BYTES, MessageSocket
from workers.wire import WireError, WireFault

Story = Callable[[Messages, socket.socket], Awaitable[None]]


def play(story: Story) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        end = Messages(ours)
        try:
            async with asyncio.timeout(30):
                await story(end, theirs)
        finally:
            end.close()
            theirs.close()

    uvloop.run(main())


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(LENGTH_BYTES, "little") + message


async def send(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)


async def read(end: Messages) -> bytes:
    message = await end.read()
    assert message is not None
    return message


def test_a_message_may_come_in_pieces_cut_anywhere() -> None:
    messages = [b"", b"a", b"second"]
    data = b"".join(map(framed, messages))

    async def story(end: Messages, theirs: socket.socket) -> None:
        for cut in range(len(data) + 1):
            reader = asyncio.ensure_future(end.read())
            await send(theirs, data[:cut])
            await asyncio.sleep(0)
            await send(theirs, data[cut:])
            assert [await reader, await read(end), await read(end)] == messages

    play(story)


def test_messages_of_every_size_come_whole_and_in_order() -> None:
    chosen = random.Random(32)
    sizes = [chosen.choice((0, 1, 100, 70_000, BUFFER_BYTES, 3 * BUFFER_BYTES)) for _ in range(60)]
    sizes += [BUFFER_BYTES - LENGTH_BYTES + more for more in (-5, -1, 0, 1)] + [MESSAGE_BYTES_MAX]
    messages = [bytes([number % 251]) * size for number, size in enumerate(sizes)]

    async def story(end: Messages, theirs: socket.socket) -> None:
        sender = asyncio.ensure_future(send(theirs, b"".join(map(framed, messages))))
        for message in messages:
            assert await read(end) == message
        await sender

    play(story)


def test_both_ways_at_once_with_more_than_the_socket_takes() -> None:
    message = b"m" * (2 << 20)  # far more than a socket's buffer

    async def story(end: Messages, theirs: socket.socket) -> None:
        other = Messages(theirs.dup())
        try:
            writers = [asyncio.ensure_future(it.write((message,))) for it in (end, other)]
            for _ in range(3):
                await asyncio.sleep(0)
            assert not any(writer.done() for writer in writers), "the socket has not taken it"
            assert await read(end) == await read(other) == message
            await asyncio.gather(*writers)
        finally:
            other.close()

    play(story)


def test_nothing_is_taken_while_it_is_paused() -> None:
    message = framed(b"x" * 4096)

    async def story(end: Messages, theirs: socket.socket) -> None:
        sent = 0
        for _ in range(100):  # nobody reads: neither does it, when it is paused
            try:
                while True:
                    sent += theirs.send(message[sent % len(message) :])
            except BlockingIOError:
                await asyncio.sleep(0)
        assert end.socket.paused
        assert sent < 4 * BUFFER_BYTES
        for _ in range(sent // len(message)):
            assert len(await read(end)) == 4096

    play(story)


def test_it_may_be_paused_and_resumed_at_every_message() -> None:
    count = 3 * BUFFER_BYTES // 1000
    messages = [number.to_bytes(4, "little") * 250 for number in range(count)]

    async def main() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        come: list[bytes] = []

        def received(message: bytes) -> None:
            come.append(message)
            end.pause()
            if len(come) % 2:
                end.resume()  # within the call
            else:
                asyncio.get_running_loop().call_soon(end.resume)

        end = MessageSocket(ours, received)
        await send(theirs, b"".join(map(framed, messages)))
        theirs.close()
        async with asyncio.timeout(30):
            await end.ended
        end.close()
        assert come == messages

    uvloop.run(main())


def test_what_the_receiver_raises_ends_it() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        come: list[bytes] = []

        def received(message: bytes) -> None:
            come.append(message)
            raise WireError(WireFault.MALFORMED, "not to be understood")

        end = MessageSocket(ours, received)
        theirs.sendall(framed(b"one") + framed(b"two"))
        with pytest.raises(WireError, match="understood"):
            await end.ended
        end.resume()
        theirs.sendall(framed(b"three"))
        await asyncio.sleep(0)
        assert come == [b"one"]
        end.close()
        theirs.close()

    uvloop.run(main())


def test_it_may_be_closed_while_a_message_is_received() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        failed: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, why: failed.append(why))

        def received(message: bytes) -> None:
            end.close()
            raise WireError(WireFault.MALFORMED, "and it was wrong")

        end = MessageSocket(ours, received)
        theirs.sendall(framed(b"one") + framed(b"two"))
        await asyncio.wait([end.ended], timeout=30)
        assert end.ended.cancelled()
        await asyncio.sleep(0)
        assert not failed
        theirs.close()

    uvloop.run(main())


@pytest.mark.parametrize("nbytes", [100, 2 * BUFFER_BYTES])
def test_a_peer_that_has_gone_without_reading_all_is_read_to_its_end(nbytes: int) -> None:
    """uvloop calls its reader once and never again."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * BUFFER_BYTES)
        come: list[bytes] = []

        def received(message: bytes) -> None:
            come.append(message)
            end.send((b"an answer to nobody",))

        end = MessageSocket(ours, received)
        assert end.send((b"what is not read",))
        theirs.setblocking(False)
        sent = framed(b"m" * nbytes)
        assert theirs.send(sent) == len(sent)
        theirs.close()
        await asyncio.wait([end.ended], timeout=10)
        assert end.ended.done()
        assert come in ([], [b"m" * nbytes])  # the error may have come first
        end.close()

    uvloop.run(main())


def test_one_that_is_too_long_is_refused_before_it_has_come() -> None:
    async def story(end: Messages, theirs: socket.socket) -> None:
        await send(theirs, (MESSAGE_BYTES_MAX + 1).to_bytes(LENGTH_BYTES, "little"))
        with pytest.raises(WireError) as refused:
            await end.read()
        assert refused.value.fault is WireFault.TOO_LARGE

    play(story)


@pytest.mark.parametrize("part", [b"", b"\x05\x00", framed(b"12345")[:-1]])
def test_what_had_come_whole_is_read_before_the_end(part: bytes) -> None:
    async def story(end: Messages, theirs: socket.socket) -> None:
        await send(theirs, framed(b"last") + part)
        theirs.close()
        assert await end.read() == b"last"
        assert await end.read() is None
        assert await end.read() is None

    play(story)


def test_writing_to_one_that_has_gone_ends_reading_too() -> None:
    async def story(end: Messages, theirs: socket.socket) -> None:
        theirs.shutdown(socket.SHUT_RD)
        await end.write((b"to nobody",))
        assert await end.read() is None
        await end.write((b"to nobody",))

    play(story)


def test_who_waits_to_write_learns_of_the_end() -> None:
    async def story(end: Messages, theirs: socket.socket) -> None:
        writer = asyncio.ensure_future(end.write((b"m" * (2 << 20),)))
        await asyncio.sleep(0)
        assert not writer.done()
        theirs.close()
        await writer
        assert await end.read() is None

    play(story)


def test_who_waits_may_be_cancelled() -> None:
    async def story(end: Messages, theirs: socket.socket) -> None:
        writer = asyncio.ensure_future(end.write((b"m" * (2 << 20),)))
        await asyncio.sleep(0)
        end.close()
        assert end.socket.ended.cancelled()
        writer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writer
        end.close()  # once more changes nothing

    play(story)
