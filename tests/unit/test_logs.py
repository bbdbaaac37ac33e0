"""The log: bounded, unforgeable, without secrets, in both forms."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from target import logs
from target.config.model import LogFormat


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    yield io.StringIO()
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def test_a_line_for_people(stream: io.StringIO) -> None:
    log = logs.configure("info", "text", stream)
    log.info("login", initiator="iqn.2026-11.a:b", lun=0)
    log.debug("not shown")
    line = stream.getvalue()
    assert line.count("\n") == 1
    assert line.rstrip().endswith("info    login initiator=iqn.2026-11.a:b lun=0")


def test_json(stream: io.StringIO) -> None:
    log = logs.configure("debug", "json", stream)
    log.bind(session=3).warning("refused", address="127.0.0.1")
    shown = json.loads(stream.getvalue())
    assert shown.pop("time").endswith("Z")
    assert shown == {"level": "warning", "event": "refused", "session": 3, "address": "127.0.0.1"}


@pytest.mark.parametrize("form", ["text", "json"])
def test_nobody_forges_a_line_or_fills_the_disk(stream: io.StringIO, form: LogFormat) -> None:
    log = logs.configure("info", form, stream)
    log.info("a\nb", name="x\n2026 error forged \x1b[31m", long="q" * 100_000)
    log.info("many", **{f"key{n}": "v" * 500 for n in range(100)})
    lines = stream.getvalue().split("\n")
    assert len(lines) == 3
    assert all(len(line) < 2 * logs.LINE_CHARS_MAX and line.isprintable() for line in lines)


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_by_any_name(stream: io.StringIO, form: LogFormat) -> None:
    log = logs.configure("info", form, stream)
    log.info("x", secret="zebra", CHAP_R="zebra", chap_secret=b"zebra", admin_token="zebra")
    assert "zebra" not in stream.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_standard_library_logs_the_same_way(stream: io.StringIO, form: LogFormat) -> None:
    logs.configure("info", form, stream)
    logging.getLogger("asyncio").error("odd %s", "thing")
    line = stream.getvalue()
    assert "odd thing" in line
    assert "asyncio" in line
    if form == "json":
        assert json.loads(line)["level"] == "error"


def test_an_exception_keeps_its_end(stream: io.StringIO) -> None:
    log = logs.configure("info", "text", stream)
    try:
        raise ValueError("y" * 2 * logs.LINE_CHARS_MAX + "the end")
    except ValueError:
        log.exception("failed")
    assert stream.getvalue().endswith("the end\n")
    assert len(stream.getvalue()) < 2 * logs.LINE_CHARS_MAX


def test_fields_of_the_standard_library_are_values(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream)
    fields = {"request": "READ(10) lun=0", "session": 3, "password": "hunter2"}
    logging.getLogger("target.x").warning("command failed", extra={"fields": fields})
    shown = json.loads(stream.getvalue())
    assert shown["event"] == "command failed"
    assert (shown["request"], shown["session"]) == ("READ(10) lun=0", 3)
    assert shown["password"] == "***"


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_last_lines_are_kept_as_they_were_said(form: LogFormat, stream: io.StringIO) -> None:
    log = logs.configure("info", form, stream)
    for number in range(logs.LINES_KEPT + 10):
        log.info("line", number=number)
    log.debug("not said, and not kept")
    logging.getLogger("target.x").warning("the last one")
    kept = logs.recent()
    assert len(kept) == logs.LINES_KEPT
    assert kept == stream.getvalue().splitlines()[-logs.LINES_KEPT :]
    assert "the last one" in kept[-1]
