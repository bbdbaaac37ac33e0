"""`make load` runs deploy/fio's jobs to their end and draws what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.load.charts import Chart, Line
from tests.load.fio import PERCENTILES, LoadFailed, parse, run_here
from tests.load.jobs import FOLDER, JOBS, common, copy_jobs, sections
from tests.load.measure import KERNEL_SECTIONS, chosen_sections
from tests.load.ways import KERNEL
from tests.support.lunmesh_server import PROJECT_ROOT
from tests.support.tgtd_server import find_tgtd
from tests.support.tools import require_tool


@pytest.mark.slow
def test_fio_writes_verifies_and_is_reported(tmp_path: Path) -> None:
    for tool in ("fio", "qemu-storage-daemon"):
        require_tool(tool)
    (tmp_path / "docs").mkdir()
    jobs = [part for job in ("sequential-write", "latency", "verify") for part in ("--job", job)]
    folders = ("--folder", str(tmp_path / "out"), "--docs", str(tmp_path / "docs"))
    short = ("--way", "nbd", "--rounds", "1", "--seconds", "0.2", "--size", "64M")
    done = subprocess.run(
        [sys.executable, "-m", "tests.load", *short, *jobs, *folders],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    servers = {"lunmesh"} | ({"tgtd"} if find_tgtd() else set())
    measured = {(p["section"]["job"], p["section"]["name"], p["server"]) for p in result["points"]}
    assert measured == {
        (section.job, section.name, server)
        for job in ("sequential-write", "latency", "verify")
        for section in sections(job)
        for server in servers
    }
    for point in result["points"]:
        (run,) = point["runs"]
        assert run["measured"]["ios"] > 0
        if point["section"]["job"] == "verify":
            # All 64 MiB are written and read back, however short other sections are made.
            done_bytes = run["measured"]["bytes_per_second"] * run["measured"]["seconds"]
            assert done_bytes > 90 << 20
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "src=" not in page
    assert "href=" not in page
    pictures = sorted(path.name for path in (tmp_path / "docs" / "images").iterdir())
    assert pictures == ["fio-latency.svg", "fio-sequential-write.svg"]
    assert all(f"images/{name}" in (tmp_path / "docs" / "fio.md").read_text() for name in pictures)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "report.html",
        "results.json",
    ]


def test_an_error_of_fio_is_no_figure() -> None:
    job = {"jobname": "verify", "error": 84, "mixed": {"total_ios": 5}}
    with pytest.raises(LoadFailed, match="error 84"):
        parse("a note of fio's\n" + json.dumps({"jobs": [job]}))
    with pytest.raises(LoadFailed, match="no result"):
        parse("fio: what is this")


def test_verify_finds_a_disk_that_keeps_nothing(tmp_path: Path) -> None:
    require_tool("fio")
    copy_jobs(tmp_path / "jobs", common(["ioengine=psync", "filename=/dev/zero"], 0.1))
    with pytest.raises(LoadFailed, match="verify"):
        run_here(tmp_path / "jobs", "verify", "sequential", 0.1)


def test_every_job_file_is_run_and_says_what_it_does_to_the_disk() -> None:
    assert {path.stem for path in FOLDER.glob("*.fio")} == {*JOBS, "common", "fill"}
    for job in (*JOBS, "fill"):
        text = (FOLDER / f"{job}.fio").read_text()
        assert sections(job)
        only_reads = "rw=randread\n" in text or "rw=read\n" in text
        assert ("Only reads." in text) == only_reads
        assert ("DESTROYS" in text) == (not only_reads)


def test_the_sections_for_the_kernel_are_there() -> None:
    found = [(section.job, section.name) for section in chosen_sections(KERNEL, [])]
    assert sorted(found) == sorted(KERNEL_SECTIONS)


def test_a_chart_is_a_picture_of_its_values() -> None:
    lines = [Line("a", [100.0, None, 400.0]), Line("b", [50.0, 60.0, 70.0], colour=1)]
    for logarithmic in (False, True):
        drawn = Chart("R & D", "depth", ["1", "2", "4"], "µs", lines, logarithmic).svg()
        root = ElementTree.fromstring(drawn)
        dots = [node for node in root.iter() if node.tag.endswith("circle")]
        assert len(dots) == 5
        heights = [float(node.attrib["cy"]) for node in dots]
        assert min(heights) == heights[1]  # the largest value is the highest
        assert max(heights) == heights[2]
    assert PERCENTILES[0] == "50"
