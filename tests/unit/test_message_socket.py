"""Messages over a socket: cut anywhere, too long, more than fit, and ends at every point."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from workers.limits import LENGTH_BYTES, MESSAGE_BYTES_MAX
from workers.message_socket import BUFFER_BYTES, MessageSocket
from workers.wire import WireError, WireFault

Story = Callable[[MessageSocket, socket.socket], Awaitable[None]]


def play(story: Story) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        end = MessageSocket(ours)
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


async def read(end: MessageSocket) -> bytes:
    message = await end.read()
    assert message is not None
    return message


def test_a_message_may_come_in_pieces_cut_anywhere() -> None:
    messages = [b"", b"a", b"second"]
    data = b"".join(map(framed, messages))

    async def story(end: MessageSocket, theirs: socket.socket) -> None:
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

    async def story(end: MessageSocket, theirs: socket.socket) -> None:
        sender = asyncio.ensure_future(send(theirs, b"".join(map(framed, messages))))
        for message in messages:
            assert await read(end) == message
        await sender

    play(story)


def test_both_ways_at_once_with_more_than_the_socket_takes() -> None:
    message = b"m" * (2 << 20)  # far more than a socket's buffer

    async def story(end: MessageSocket, theirs: socket.socket) -> None:
        other = MessageSocket(theirs.dup())
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


def test_nothing_more_is_taken_than_the_buffer_holds() -> None:
    async def story(end: MessageSocket, theirs: socket.socket) -> None:
        await send(theirs, framed(b"first"))
        assert await read(end) == b"first"  # from now on it is watched
        message = framed(b"x" * 4096)
        sent = 0
        for _ in range(100):  # nobody reads: neither does it
            try:
                while True:
                    sent += theirs.send(message[sent % len(message) :])
            except BlockingIOError:
                await asyncio.sleep(0)
        assert sent < 4 * BUFFER_BYTES
        for _ in range(sent // len(message)):
            assert len(await read(end)) == 4096

    play(story)


def test_one_that_is_too_long_is_refused_before_it_has_come() -> None:
    async def story(end: MessageSocket, theirs: socket.socket) -> None:
        await send(theirs, (MESSAGE_BYTES_MAX + 1).to_bytes(LENGTH_BYTES, "little"))
        with pytest.raises(WireError) as refused:
            await end.read()
        assert refused.value.fault is WireFault.TOO_LARGE

    play(story)


@pytest.mark.parametrize("part", [b"", b"\x05\x00", framed(b"12345")[:-1]])
def test_what_had_come_whole_is_read_before_the_end(part: bytes) -> None:
    async def story(end: MessageSocket, theirs: socket.socket) -> None:
        await send(theirs, framed(b"last") + part)
        theirs.close()
        assert await end.read() == b"last"
        assert await end.read() is None
        assert await end.read() is None

    play(story)


def test_writing_to_one_that_has_gone_ends_reading_too() -> None:
    async def story(end: MessageSocket, theirs: socket.socket) -> None:
        theirs.shutdown(socket.SHUT_RD)
        with pytest.raises(BrokenPipeError):
            await end.write((b"to nobody",))
        assert await end.read() is None

    play(story)


def test_who_waits_to_write_learns_of_the_end() -> None:
    async def story(end: MessageSocket, theirs: socket.socket) -> None:
        writer = asyncio.ensure_future(end.write((b"m" * (2 << 20),)))
        await asyncio.sleep(0)
        theirs.close()
        with pytest.raises(OSError):  # noqa: PT011 -- EPIPE or ECONNRESET
            await writer

    play(story)


def test_who_waits_may_be_cancelled() -> None:
    async def story(end: MessageSocket, theirs: socket.socket) -> None:
        for number in range(3):
            reader = asyncio.ensure_future(end.read())
            await asyncio.sleep(0)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            await send(theirs, framed(bytes([number])))
            assert await read(end) == bytes([number])
        writer = asyncio.ensure_future(end.write((b"m" * (2 << 20),)))
        await asyncio.sleep(0)
        end.close()
        writer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writer

    play(story)
