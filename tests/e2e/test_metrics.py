"""/metrics, /healthz and /readyz of a running node, against what was asked of it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

from tests.support import cdb
from tests.support.initiator import Initiator
from tests.support.iscsi_pdu import TaskFunction
from tests.support.lunmesh_server import LunmeshServer, free_port
from tests.support.lunmesh_worker import LunmeshWorker
from tests.support.redis_server import RedisServer
from tests.support.reservations import RESERVE6, pr_out
from tests.support.scrape import Samples, page, scrape
from tests.support.tools import require_tool
from tests.support.until import until

READS, WRITES = 40, 25
CONFLICT = 0x18
KEY = 0x1122334455667788


def logged_in(server: LunmeshServer, name: str) -> Initiator:
    """A session without unit attentions."""
    session = Initiator(server.host, server.port, target=server.iqn, name=name, timeout=60)
    session.login()
    while session.command(cdb.TEST_UNIT_READY).sense_key == 6:
        pass
    return session


def of_class(samples: Samples, name: str, opclass: str, **labels: str) -> float:
    return samples.get(name, lun="0", **{"class": opclass}, **labels)


def test_every_command_is_counted_as_what_it_was(tmp_path: Path) -> None:
    with (
        LunmeshServer(tmp_path, ["disk0=16M"]) as server,
        logged_in(server, "iqn.x:one") as one,
        logged_in(server, "iqn.x:two") as two,
    ):
        for lba in range(READS):
            one.command(cdb.read10(lba, 8), read_length=4096)
        for lba in range(WRITES):
            one.command(cdb.write10(lba, 2), data_out=bytes(1024))
        one.command(cdb.synchronize_cache10())
        one.command(cdb.read10(1 << 30, 1), read_length=512)
        key = KEY.to_bytes(8, "big")
        for action, data in ((0, bytes(8) + key + bytes(8)), (3, key + bytes(16))):
            assert one.command(pr_out(action), data_out=data).status == 0  # REGISTER, CLEAR
        assert one.command(RESERVE6).status == 0
        for _ in range(3):
            assert two.command(cdb.read10(0, 1), read_length=512).status == CONFLICT
        assert two.task_management(TaskFunction.LOGICAL_UNIT_RESET) == 0
        found = scrape(server.admin)
    assert of_class(found, "scsi_command_seconds_count", "read") == READS + 1 + 3
    assert of_class(found, "scsi_command_seconds_bucket", "read", le="+Inf") == READS + 1 + 3
    assert of_class(found, "scsi_bytes_total", "read") == READS * 4096
    assert of_class(found, "scsi_command_seconds_count", "write") == WRITES
    assert of_class(found, "scsi_bytes_total", "write") == WRITES * 1024
    assert of_class(found, "scsi_command_seconds_count", "flush") == 1
    assert of_class(found, "scsi_command_seconds_count", "reserve") == 3
    assert 0 < of_class(found, "scsi_command_seconds_sum", "read") < 60
    failures = {"lun": "0", "status": "check_condition"}
    assert found.get("scsi_failures_total", sense_key="illegal_request", **failures) == 1
    assert found.get("scsi_failures_total", sense_key="unit_attention", **failures) == 2
    for name in ("register", "clear"):
        assert found.get("scsi_persistent_reserve_outs_total", lun="0", action=name) == 1
    conflicts = {"lun": "0", "status": "reservation_conflict", "sense_key": ""}
    assert found.get("scsi_failures_total", **conflicts) == 3
    reset = {"function": "logical_unit_reset", "response": "function_complete"}
    assert found.get("iscsi_task_management_total", **reset) == 1
    assert found.get("scsi_reserved", lun="0") == 0  # the reset has ended it
    assert found.get("iscsi_sessions", kind="normal") == 2
    assert found.get("iscsi_connections") == 2
    assert found.get("iscsi_logins_total") == 2
    assert found.get("buffer_bytes", what="total") == 256 << 20
    assert found.get("volume_bytes", lun="0", volume="disk0") == 16 << 20
    assert 0 < found.get("volume_allocated_bytes", lun="0", volume="disk0") < 16 << 20
    assert "iqn.x" not in page_text(found)


def is_ready(server: LunmeshServer) -> bool:
    """A node that begins a new life is not there at all for a moment."""
    try:
        return page(server.admin, "/readyz").status == 200
    except ConnectionError:
        return False


def page_text(samples: Samples) -> str:
    """All labels and names."""
    return str(samples.__dict__)


def test_scraped_while_it_serves(tmp_path: Path) -> None:
    require_tool("iscsi-perf")
    with LunmeshServer(tmp_path, ["disk0=16M"]) as server:
        url = f"iscsi://{server.portal}/{server.iqn}/0"
        load = subprocess.Popen(
            ["iscsi-perf", "-b", "8", "-m", "32", "-r", "-t", "2", url],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        scrapes: list[Samples] = []
        with load:
            while load.poll() is None:
                scrapes.append(scrape(server.admin))
            assert load.stdout is not None
            said = load.stdout.read()
        counts = [of_class(s, "scsi_command_seconds_count", "read") for s in scrapes]
        assert counts == sorted(counts)
        busy = next(s for s in scrapes if of_class(s, "scsi_command_seconds_count", "read") > 1000)
        assert busy.get("iscsi_sessions", kind="normal") == 1
        last = scrape(server.admin)
    commands = of_class(last, "scsi_command_seconds_count", "read")
    # A few at the end of the disk are shorter.
    assert 0.99 < of_class(last, "scsi_bytes_total", "read") / (commands * 4096) <= 1
    # It prints how many it had in each second, so all but those of the last one, or a part of it.
    rates = [int(rate) for rate in re.findall(r"iops average (\d+)", said)]
    assert rates, said
    assert commands > rates[-1]


def test_a_worker_that_is_killed_shows_and_is_waited_for(tmp_path: Path) -> None:
    with LunmeshWorker(tmp_path / "w") as worker:
        flags = ["--worker", worker.address, "--worker-timeout", "60"]
        with (
            LunmeshServer(tmp_path / "a", ["disk0=16M"], arguments=flags) as server,
            logged_in(server, "iqn.x:one") as one,
        ):
            labels = {"worker": worker.address}
            assert one.command(cdb.write10(0, 1), data_out=bytes(512)).status == 0
            before = scrape(server.admin)
            assert before.get("worker_served", **labels) == 1
            assert before.get("worker_ios_total", **labels) >= 1
            assert before.get("worker_sent_bytes_total", **labels) == 512
            assert page(server.admin, "/readyz").status == 200
            worker.signal(signal.SIGSTOP)  # what is sent from here on is not answered
            task = one.start(cdb.write10(8, 1), data_out=bytes(512))
            until(lambda: scrape(server.admin).get("worker_unanswered", **labels) == 1)
            assert scrape(server.admin).get("scsi_tasks", lun="0", state="running") == 1
            assert scrape(server.admin).get("scsi_oldest_task_seconds", lun="0") > 0
            worker.kill()
            until(lambda: page(server.admin, "/readyz").status == 503)
            assert page(server.admin, "/readyz").text.startswith(
                f"no worker serves: worker {worker.address}: "
            )
            assert page(server.admin, "/healthz").status == 200
            assert scrape(server.admin).get("worker_served", **labels) == 0
            worker.start()
            one.wait(task)
            assert task.status == 0
            after = scrape(server.admin)
            assert after.get("worker_retries_total", **labels) == 1
            assert after.get("worker_connections_total", **labels) == 2
            assert page(server.admin, "/readyz").status == 200


def test_one_worker_of_two_away_is_told_and_no_reason_to_go_elsewhere(tmp_path: Path) -> None:
    """All nodes miss the same worker: were none of them ready, nothing at all could be served."""
    with LunmeshWorker(tmp_path / "v") as one, LunmeshWorker(tmp_path / "w") as other:
        flags = ["--worker", one.address, "--worker", other.address]
        with LunmeshServer(tmp_path / "a", ["disk0=16M"], arguments=flags) as server:
            assert page(server.admin, "/readyz").text == "ok\n"
            other.kill()
            until(lambda: page(server.admin, "/readyz").text != "ok\n")
            found = page(server.admin, "/readyz")
            assert found.status == 200
            assert found.text.startswith(f"ok\ndegraded: worker {other.address}: ")
            one.kill()
            until(lambda: page(server.admin, "/readyz").status == 503)


def test_a_node_without_redis_is_not_ready_and_who_shuts_it_out_says_so(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path / "redis") as redis,
        LunmeshWorker(tmp_path / "worker") as worker,
    ):
        cluster = ["--redis", redis.url, "--worker", worker.address, "--lease", "1"]
        a, b = (
            LunmeshServer(tmp_path / name, ["disk0=16M"], arguments=[*cluster, "--node-id", name])
            for name in "ab"
        )
        with a, b:
            until(lambda: scrape(a.admin).get("cluster_nodes") == 2)
            until(lambda: (scrape(a.admin).get("registry_memory_bytes") or 0) > 0)
            b.kill()
            until(lambda: scrape(a.admin).get("cluster_fencings_total") == 1)
            found = scrape(a.admin)
            answered = found.get("registry_call_seconds_count")
            assert answered > 0
            assert 0 < found.get("registry_call_seconds_sum") < answered * 10
            assert found.get("registry_call_seconds_bucket", le="10") == answered
            assert found.get("registry_call_seconds_bucket", le="1e-05") < answered, "a round trip"
            assert 0 < found.get("cluster_lease_seconds") < 1
            assert page(a.admin, "/readyz").text == "ok\n"
            redis.kill()
            until(lambda: page(a.admin, "/readyz").status == 503)
            assert page(a.admin, "/readyz").text == "no lease: Redis does not answer\n"
            assert scrape(a.admin).get("registry_failures_total") > 0
            redis.start()
            until(lambda: is_ready(a))


def test_a_worker_tells_what_it_has_done(tmp_path: Path) -> None:
    port = free_port()
    flags = ["--metrics", str(port), "--direct-reads", "off", "--fault", "delay=20ms"]
    address = f"127.0.0.1:{port}"
    with LunmeshWorker(tmp_path / "w", arguments=flags) as worker:
        assert page(address, "/readyz").text == page(address, "/healthz").text == "ok\n"
        idle = scrape(address)
        assert (idle.get("share_volumes"), idle.get("share_nodes")) == (0, 0)
        with (
            LunmeshServer(
                tmp_path / "a", ["disk0=16M"], arguments=["--worker", worker.address]
            ) as server,
            logged_in(server, "iqn.x:one") as one,
        ):
            one.command(cdb.write10(0, 8), data_out=bytes(4096))
            one.command(cdb.read10(0, 8), read_length=4096)
            found = scrape(address)
    assert found.get("share_volumes") == 1
    assert found.get("share_nodes") == found.get("share_streams_total") == 1
    assert found.get("share_ios_total") == 2
    assert found.get("share_received_bytes_total") == 4096
    assert found.get("share_sent_bytes_total") == 4096
    assert found.get("share_io_seconds_count") == 2
    assert found.get("share_io_seconds_bucket", le="0.01") == 0  # they were delayed for longer
    assert found.get("share_io_seconds_bucket", le="+Inf") == 2
    assert found.get("share_io_seconds_sum") > 0.039  # 2 of 20 ms, and a clock of binary fractions
    assert found.get("buffer_bytes", what="total") == 256 << 20


def test_a_failed_command_is_a_line_for_programs(tmp_path: Path) -> None:
    """And a count, and what came before it follows."""
    with LunmeshWorker(tmp_path / "w", arguments=["--fault", "error=1"]) as worker:
        flags = ["--worker", worker.address, "--log-format", "json"]
        with (
            LunmeshServer(tmp_path / "a", ["disk0=16M"], arguments=flags) as server,
            logged_in(server, "iqn.x:one") as one,
        ):
            task = one.command(cdb.write10(24, 1), data_out=bytes(512))
            assert task.sense_key == 3
            found = scrape(server.admin)
        lines = [json.loads(line) for line in server.stderr().splitlines()]
    labels = {"lun": "0", "status": "check_condition", "sense_key": "medium_error"}
    assert found.get("scsi_failures_total", **labels) == 1
    (failed,) = (line for line in lines if line["event"] == "command failed")
    assert failed["level"] == "warning"
    assert failed["initiator"] == "iqn.x:one"
    assert failed["request"].startswith("WRITE(10) lun=0 ")
    assert "lba=24 blocks=1" in failed["request"]
    flight = [line["request"] for line in lines if line["event"] == "flight"]
    assert flight[-1] == failed["request"]
    assert flight[0].startswith("TEST UNIT READY")
