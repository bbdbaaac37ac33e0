"""`lunmesh worker` as a process: start, crash, stop, health, TLS."""

from __future__ import annotations

import queue
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from lunmesh.worker.v2 import worker_pb2 as pb
from lunmesh.worker.v2 import worker_pb2_grpc

from tests.support.certificates import make_authority, make_certificate
from tests.support.lunmesh_server import PROJECT_ROOT
from tests.support.lunmesh_worker import LunmeshWorker, WorkerProcessError
from workers.store import IoKind, StoreIo, StoreStatus
from workers.wire import STREAM_METHOD, Outgoing, pack_batch, unpack_answers

SHARE = pb.VolumeShare(
    name="disk", uuid=bytes(16), size=1 << 20, chunk_bytes=65536, block_bytes=512
)


def control_of(channel: grpc.Channel) -> Any:
    return worker_pb2_grpc.ControlStub(channel)  # type: ignore[no-untyped-call]


def unused(_: StoreIo) -> None:
    raise AssertionError


def exchange(channel: grpc.Channel, *ios: tuple[IoKind, bytes]) -> list[bytes]:
    """Create and open the disk, run I/Os of its first block, one after the other; their data."""
    control = control_of(channel)
    assert control.CreateVolume(pb.CreateVolumeRequest(share=SHARE)).status == pb.STATUS_OK
    request = pb.OpenVolumeRequest(node="node", epoch=1, uuid=SHARE.uuid)
    handle = control.OpenVolume(request).handle
    outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    outbox.put(b"".join(pack_batch("node", 1, 1, [], answer_credit=1 << 20)))
    call: Any = channel.stream_stream(STREAM_METHOD)
    answers = call(iter(outbox.get, None), timeout=20)
    assert unpack_answers(next(answers)).request_credit > 0
    found: list[bytes] = []
    for number, (kind, data) in enumerate(ios, 2):
        io = StoreIo(kind, 0, 512, unused, [memoryview(data)] if data else ())
        outbox.put(b"".join(pack_batch("node", 1, number, [Outgoing(number, handle, 0, io)])))
        (answer,) = unpack_answers(next(answers)).answers
        assert answer.status is StoreStatus.OK
        found.append(b"".join(answer.payload))
    outbox.put(None)
    assert list(answers) == []
    return found


def test_data_survive_a_crash_and_a_stop(tmp_path: Path) -> None:
    with LunmeshWorker(tmp_path) as worker:
        with grpc.insecure_channel(worker.address) as channel:
            exchange(channel, (IoKind.WRITE, b"a" * 512))
        worker.kill()
        worker.start()
        with grpc.insecure_channel(worker.address) as channel:
            found = exchange(channel, (IoKind.READ, b""), (IoKind.WRITE, b"b" * 512))
            assert found[0] == b"a" * 512
            assert worker.stop() == 0
        worker.start()
        with grpc.insecure_channel(worker.address) as channel:
            assert exchange(channel, (IoKind.READ, b"")) == [b"b" * 512]


def test_a_stop_waits_for_what_runs_and_two_do_not(tmp_path: Path) -> None:
    with LunmeshWorker(tmp_path, arguments=["--fault", "delay=500ms"]) as worker:
        with grpc.insecure_channel(worker.address) as channel:
            exchange(channel, (IoKind.WRITE, b"a" * 512))
        started = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - started >= 0.5, "the flush at the end takes that long"
        worker.start()
        with grpc.insecure_channel(worker.address) as channel:
            exchange(channel, (IoKind.WRITE, b"a" * 512))
        worker.signal(signal.SIGTERM)
        time.sleep(0.1)
        assert worker.stop() == 1


def test_a_second_worker_of_the_same_directory_is_refused(tmp_path: Path) -> None:
    with LunmeshWorker(tmp_path / "a") as worker:
        other = LunmeshWorker(tmp_path / "b", store=worker.store)
        with pytest.raises(WorkerProcessError, match=f"in use by process {worker.pid}"):
            other.start()


def test_health_reflection_and_status(tmp_path: Path) -> None:
    with LunmeshWorker(tmp_path) as worker, grpc.insecure_channel(worker.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "lunmesh.worker.v2.Data", "lunmesh.worker.v2.Control"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (listed,) = list(reflection.ServerReflectionInfo(iter([asked])))
        names = {service.name for service in listed.list_services_response.service}
        assert {"lunmesh.worker.v2.Data", "lunmesh.worker.v2.Control"} <= names
        status = control_of(channel).GetStatus(pb.GetStatusRequest())
        assert (status.store, status.draining, status.operations_running) == ("file", False, 0)
        drained = control_of(channel).Drain(pb.DrainRequest())
        assert drained.status == pb.STATUS_OK
        answer = health.Check(health_pb2.HealthCheckRequest(service=""))
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_mutual_tls_lets_in_whom_the_authority_knows(tmp_path: Path) -> None:
    authority = make_authority(tmp_path, "authority")
    stranger = make_authority(tmp_path, "stranger")
    certificate, key = make_certificate(tmp_path, authority, "worker")
    arguments = ["--tls-cert", str(certificate), "--tls-key", str(key), "--tls-ca", str(authority)]

    def connect(worker: LunmeshWorker, trusted: Path, signer: Path | None) -> None:
        pair: tuple[bytes | None, bytes | None] = None, None
        if signer is not None:
            mine, my_key = make_certificate(tmp_path, signer, "node")
            pair = my_key.read_bytes(), mine.read_bytes()
        credentials = grpc.ssl_channel_credentials(trusted.read_bytes(), *pair)
        with grpc.secure_channel(worker.address, credentials) as channel:
            control_of(channel).GetStatus(pb.GetStatusRequest(), timeout=5)

    with LunmeshWorker(tmp_path / "w", listen="127.0.0.1:0", arguments=arguments) as worker:
        connect(worker, authority, authority)
        for trusted, signer in ((authority, None), (authority, stranger), (stranger, authority)):
            with pytest.raises(grpc.RpcError) as caught:
                connect(worker, trusted, signer)
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.UNAVAILABLE
        with grpc.insecure_channel(worker.address) as channel, pytest.raises(grpc.RpcError):
            control_of(channel).GetStatus(pb.GetStatusRequest(), timeout=5)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    authority = make_authority(tmp_path, "authority")
    certificate, key = make_certificate(tmp_path, authority, "worker")
    other = authority.with_suffix(".key")
    for pair, ca, problem in (
        ((certificate, other), authority, f"{certificate} or key {other}: key values mismatch"),
        ((certificate, key), other, f"worker client CA {other}: no certificate"),
    ):
        arguments = ["--tls-cert", *map(str, (pair[0], "--tls-key", pair[1], "--tls-ca", ca))]
        worker = LunmeshWorker(tmp_path / "w", listen="127.0.0.1:0", arguments=arguments)
        with pytest.raises(WorkerProcessError, match=problem):
            worker.start()


def test_sigterm_ends_one_that_waits_for_redis(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections, and is no Redis
        port = silent.getsockname()[1]
        arguments = ["--listen", f"unix:{tmp_path / 's'}", "--store", "memory:"]
        arguments += ["--redis", f"redis://127.0.0.1:{port}"]
        command = [sys.executable, "-m", "target.cli", "worker", *arguments]
        with subprocess.Popen(command, cwd=PROJECT_ROOT, stderr=subprocess.PIPE) as process:
            try:
                asked, _ = silent.accept()
                process.send_signal(signal.SIGTERM)
                _, said = process.communicate(timeout=60)
            finally:
                process.kill()
            asked.close()
    assert (process.returncode, b"stopped" in said) == (0, True)
