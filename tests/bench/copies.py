"""``python -m tests.bench.copies``: what a READ of 256 KiB from the page cache costs at least.

CPU time of the one thread that reads and sends, over loopback, to a process that throws it away: by
a buffer of one's own, from the mapped file, and by ``sendfile``.  The last two would spare a copy.
"""

from __future__ import annotations

import mmap
import os
import socket
import tempfile
import time
from collections.abc import Callable
from statistics import median

NBYTES = 256 << 10
FILE_BYTES = 128 << 20
READS = 1000
ROUNDS = 7


def main() -> None:
    """Rounds of all, one after the other; their medians."""
    with tempfile.TemporaryFile() as file, socket.create_server(("127.0.0.1", 0)) as server:
        file.write(os.urandom(FILE_BYTES))
        file.flush()
        child = os.fork()
        if not child:
            _throw_away(server.getsockname())
        client, _ = server.accept()
        fd = file.fileno()
        buffer = [memoryview(bytearray(NBYTES))]
        with client, memoryview(mmap.mmap(fd, FILE_BYTES, prot=mmap.PROT_READ)) as mapped:

            def read(offset: int) -> None:
                os.preadv(fd, buffer, offset, os.RWF_NOWAIT)

            def send(offset: int) -> None:
                client.sendall(buffer[0])

            def send_mapped(offset: int) -> None:
                client.sendall(mapped[offset : offset + NBYTES])

            def send_file(offset: int) -> None:
                end = offset + NBYTES
                while offset < end:
                    offset += os.sendfile(client.fileno(), fd, offset, end - offset)

            costs: dict[str, list[float]] = {}
            for _ in range(ROUNDS):
                for way in (read, send, send_mapped, send_file):
                    costs.setdefault(way.__name__, []).append(_cost(way))
        os.waitpid(child, 0)
    for name, taken in costs.items():
        print(f"{name:12} {median(taken):6.1f} µs ({min(taken):.1f}-{max(taken):.1f})")


def _cost(way: Callable[[int], None]) -> float:
    """Microseconds of CPU time."""
    began = time.thread_time()
    for number in range(READS):
        way(number * NBYTES % FILE_BYTES)
    return (time.thread_time() - began) / READS * 1e6


def _throw_away(address: tuple[str, int]) -> None:
    scratch = bytearray(1 << 20)
    with socket.create_connection(address) as sent:
        while sent.recv_into(scratch):
            pass
    os._exit(0)


if __name__ == "__main__":
    main()
