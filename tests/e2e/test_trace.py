"""`lunmesh serve --trace`: what a collector of OpenTelemetry's gets."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support import cdb
from tests.support.initiator import Initiator
from tests.support.lunmesh_server import LunmeshServer, free_port


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Its URL, and what has come."""
    came: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                data = gzip.decompress(data)
            came.append(ExportTraceServiceRequest.FromString(data))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Nothing on standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", came
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def use(server: LunmeshServer) -> None:
    with Initiator(server.host, server.port, target=server.iqn) as session:
        session.login()
        while session.command(cdb.TEST_UNIT_READY).sense_key == 6:
            pass
        assert session.command(cdb.write10(0, 8), data_out=bytes(4096)).status == 0
        assert session.command(cdb.synchronize_cache10()).status == 0


def test_commands_are_told_to_a_collector(tmp_path: Path) -> None:
    with collector() as (url, came):
        flags = ["--trace", url, "--trace-ratio", "1"]
        with LunmeshServer(tmp_path, ["disk0=16M"], arguments=flags) as server:
            use(server)
            assert server.stop() == 0  # which sends what there is
    (spans,) = (
        scope.spans for it in came for res in it.resource_spans for scope in res.scope_spans
    )
    by_name = {span.name: span for span in spans}
    assert {"TEST UNIT READY", "WRITE(10)", "SYNCHRONIZE CACHE(10)", "store flush"} <= set(by_name)
    flush = by_name["SYNCHRONIZE CACHE(10)"]
    assert by_name["store flush"].parent_span_id == flush.span_id
    assert flush.start_time_unix_nano <= by_name["store flush"].start_time_unix_nano
    assert by_name["store flush"].end_time_unix_nano <= flush.end_time_unix_nano


def test_a_collector_that_is_not_there_holds_nothing_up(tmp_path: Path) -> None:
    flags = ["--trace", f"http://127.0.0.1:{free_port()}/v1/traces", "--trace-ratio", "1"]
    with LunmeshServer(tmp_path, ["disk0=16M"], arguments=flags) as server:
        use(server)
        assert server.stop() == 0
