"""The host's side of one serial port through which the guest's first process takes commands.

The host sends a line for each command ("ID SECONDS BASE64-SCRIPT") and gets a line back ("ID
STATUS LENGTH") with the output behind it. The port is a socket pair on the host, so there is no
address to agree on, nothing to wait for but bytes, and each side sees the other's end.
"""

import base64
import socket
from dataclasses import dataclass

# How much longer than the guest's own limit the host waits, on a machine busy with other work.
GRACE_S = 60
READY_LINE = b"READY\n"


class ChannelBroken(Exception):
    """The guest closed the port, broke the protocol, or did not answer in time."""


@dataclass(frozen=True, slots=True)
class Result:
    status: int
    output: str


class CommandChannel:
    def __init__(self) -> None:
        self._socket, self.guest_end = socket.socketpair()
        self._reader = self._socket.makefile("rb")
        self._next_id = 0

    def wait_until_ready(self, timeout_s: float) -> None:
        self._socket.settimeout(timeout_s)
        try:
            ready = self._reader.readline() == READY_LINE
        except OSError as exc:
            raise ChannelBroken(f"the guest did not boot in {timeout_s} s") from exc
        if not ready:
            raise ChannelBroken("the guest did not boot")

    def send(self, script: str, timeout_s: int) -> None:
        """Start a command, whose answer must be taken by `receive` before the next is sent."""
        self._next_id += 1
        encoded = base64.b64encode(script.encode()).decode()
        self._socket.settimeout(timeout_s + GRACE_S)
        try:
            self._socket.sendall(f"{self._next_id} {timeout_s} {encoded}\n".encode())
        except OSError as exc:
            raise ChannelBroken("the guest takes no command") from exc

    def receive(self) -> Result:
        """The answer to the command that was sent."""
        try:
            match self._reader.readline().split():
                case [number, status, length] if int(number) == self._next_id:
                    output = self._reader.read(int(length))
                    if len(output) == int(length):
                        return Result(int(status), output.decode(errors="replace"))
        except OSError as exc:
            raise ChannelBroken("the guest does not answer") from exc
        raise ChannelBroken("the guest broke off")

    def close(self) -> None:
        self._reader.close()
        self._socket.close()
        self.guest_end.close()
