"""What the admin API writes down of calls that it refuses: enough, and never too much."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp.test_utils import make_mocked_request

from target.admin.audit import AuditFile
from target.admin.guard import REFUSED_LINES_MAX, REFUSED_SECONDS, Guard
from target.logs import Log


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Lines(list[dict[str, Any]]):
    """A log that keeps its lines."""

    def info(self, event: str, **more: Any) -> None:
        self.append(more)

    warning = error = info


@pytest.fixture
def lines() -> Lines:
    return Lines()


def test_refused_calls_do_not_fill_the_log(lines: Lines) -> None:
    clock = Clock()
    guard = Guard("token", None, cast(Log, lines), clock=clock)

    def refused(count: int) -> None:
        for _ in range(count):
            asyncio.run(guard.audit(make_mocked_request("GET", "/v1/volumes"), 401, 0))

    refused(REFUSED_LINES_MAX + 30)
    assert len(lines) == REFUSED_LINES_MAX
    clock.now += REFUSED_SECONDS
    refused(5)
    assert len(lines) == REFUSED_LINES_MAX + 1
    assert lines[-1]["untold"] == 30
    clock.now += REFUSED_SECONDS * REFUSED_LINES_MAX
    refused(1)
    assert lines[-1]["untold"] == 4
    refused(1)
    assert "untold" not in lines[-1]


def test_changes_are_always_told(lines: Lines) -> None:
    guard = Guard(None, None, cast(Log, lines), clock=Clock())
    for _ in range(3 * REFUSED_LINES_MAX):
        asyncio.run(guard.audit(make_mocked_request("DELETE", "/v1/volumes/a"), 204, 0))
    assert len(lines) == 3 * REFUSED_LINES_MAX


def test_a_line_that_cannot_be_written_is_in_the_log(lines: Lines, tmp_path: Path) -> None:
    log = cast(Log, lines)
    good, bad = AuditFile(tmp_path / "a", "n", log), AuditFile(tmp_path / "none" / "a", "n", log)
    for file in (good, bad):
        guard = Guard(None, None, log, file)
        asyncio.run(guard.audit(make_mocked_request("DELETE", "/v1/volumes/a"), 204, 0.5))
    written = json.loads((tmp_path / "a").read_text())
    assert (written["node"], written["who"], written["seconds"]) == ("n", "local", 0.5)
    (lost,) = [line for line in lines if "reason" in line]
    assert (lost["path"], lost["status"]) == ("/v1/volumes/a", 204)
    with pytest.raises(OSError, match="none"):
        bad.check()
