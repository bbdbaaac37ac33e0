"""Shows ``/metrics``, ``/healthz`` and ``/readyz`` of a node to a network, and no more of its API.

    metrics.py [HOST:]PORT [ADMIN_PORT]

The admin API stays on loopback, since whoever reaches it may do everything.  This runs beside the
node, in its network namespace: for a Prometheus and for probes that are elsewhere.  At most
``REQUESTS_MAX`` requests are served at a time; one more is closed unanswered.
"""

import contextlib
import http.client
import http.server
import signal
import sys
import threading

PATHS = ("/metrics", "/healthz", "/readyz")
TIMEOUT_S = 10
REQUESTS_MAX = 8
BODY_BYTES_MAX = 64 << 20


class Handler(http.server.BaseHTTPRequestHandler):
    """One GET, asked of the node and answered with what it said."""

    timeout = TIMEOUT_S
    admin_port = 3280

    def do_GET(self) -> None:
        if self.path not in PATHS:
            self.send_error(404)
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", self.path)
            response = connection.getresponse()
            body = response.read(BODY_BYTES_MAX)
        except (OSError, http.client.HTTPException) as exc:
            self.send_error(502, f"the node does not answer ({type(exc).__name__})")
            return
        finally:
            connection.close()
        self.send_response(response.status)
        self.send_header("Content-Type", response.getheader("Content-Type", "text/plain"))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """A scrape that went well is not worth a line."""


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int]) -> None:
        self._free = threading.BoundedSemaphore(REQUESTS_MAX)
        super().__init__(address, Handler)

    def process_request(self, request, peer) -> None:  # type: ignore[no-untyped-def]
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, peer)

    def process_request_thread(self, request, peer) -> None:  # type: ignore[no-untyped-def]
        try:
            super().process_request_thread(request, peer)
        finally:
            self._free.release()


def main() -> int:
    host, _, port = sys.argv[1].rpartition(":")
    if len(sys.argv) > 2:
        Handler.admin_port = int(sys.argv[2])
    # As process 1 of a container it would not be ended by a signal that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.suppress(KeyboardInterrupt), Server((host or "0.0.0.0", int(port))) as server:
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
