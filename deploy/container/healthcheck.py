"""Exits 0 where ``/healthz`` of this container answers 200, or 1 and one line that says why not.

    healthcheck.py [PATH]

It asks at the Unix socket that ``LUNMESH_HEALTH`` names (the image sets it), where nodes and
workers tell how they are whatever else they are told: with TLS, a token, or no admin API at all.
The standard library alone: an image without curl is a smaller one.
"""

import http.client
import os
import socket
import sys

TIMEOUT_S = 4
WHERE = os.environ.get("LUNMESH_HEALTH", "/data/health.sock")


class UnixConnection(http.client.HTTPConnection):
    """HTTP to a Unix socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(WHERE)


def main() -> int:
    path = sys.argv[1] if len(sys.argv) > 1 else "/healthz"
    connection = UnixConnection("localhost")
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        said = response.read(2000).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as exc:
        print(f"{WHERE}: {exc}")
        return 1
    finally:
        connection.close()
    print(said)
    return 0 if response.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
