"""What gRPC in Python can do at most: a bare bidirectional stream of bytes, and nothing behind it.

    python -m tests.bench.grpc_stream serve ADDRESS
    python -m tests.bench.grpc_stream load ADDRESS BYTES DEPTH WRITES SECONDS

A message asks for so many bytes and is answered with them, or brings them and is answered without.
One I/O is one message each way.
"""

from __future__ import annotations

import asyncio
import struct
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

from workers.grpc_environment import prepare_grpc

prepare_grpc()
import grpc  # noqa: E402 - what is set before is for it
from grpc import aio  # noqa: E402

_METHOD = "/bench/Stream"
_HEAD = struct.Struct("<QQ")  # number, bytes wanted
_MESSAGE_BYTES_MAX = 8 << 20
_OPTIONS = [
    ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
]


async def _answer(
    requests: AsyncIterator[bytes], context: aio.ServicerContext[bytes, bytes]
) -> AsyncIterator[bytes]:
    payload = bytes(_MESSAGE_BYTES_MAX)
    async for request in requests:
        _, wanted = _HEAD.unpack_from(request)
        yield request[: _HEAD.size] + payload[:wanted]


async def serve(address: str) -> None:
    server = aio.server(options=_OPTIONS)
    handler: Any = grpc.stream_stream_rpc_method_handler(_answer)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("bench", {"Stream": handler}),)
    )
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


async def load(address: str, size: int, depth: int, writes: bool, seconds: float) -> None:
    """Print how many were answered, in how many seconds; at least one, however long it takes."""
    async with aio.insecure_channel(address, options=_OPTIONS) as channel:
        stream: Any = channel.stream_stream(_METHOD)()
        message = _HEAD.pack(0, 0) + bytes(size) if writes else _HEAD.pack(0, size)
        await stream.write(message)
        await stream.read()  # connected
        began = time.monotonic()
        for _ in range(depth):
            await stream.write(message)
        answered = 0
        while (now := time.monotonic()) < began + seconds or not answered:
            await stream.read()
            answered += 1
            await stream.write(message)
        stream.cancel()
        print(answered, now - began)


def main() -> None:
    what, address, *rest = sys.argv[1:]
    if what == "serve":
        asyncio.run(serve(address))
    else:
        size, depth, writes = map(int, rest[:3])
        asyncio.run(load(address, size, depth, bool(writes), float(rest[3])))


if __name__ == "__main__":
    main()
