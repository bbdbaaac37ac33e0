"""The log: one set-up, lines for people or JSON, on standard error.

1. Every line ends: events and values are cut (``VALUE_CHARS_MAX``, ``LINE_CHARS_MAX``) and what is
   not printable is escaped, so that no initiator can forge a line or fill a disk with one.
2. Values under a name that sounds like a secret never show, whoever logs them.
3. The standard library's loggers (asyncio, warnings, later grpc and redis) come out the same way;
   ``extra={"fields": {…}}`` are values of such a line.
4. The last ``LINES_KEPT`` lines are kept, for a report of what went wrong (``recent``).
5. A line that cannot be written (a closed pipe, a full disk) is lost, and nothing else is.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger

from target.config.model import LogFormat, LogLevel

Log = FilteringBoundLogger

VALUE_CHARS_MAX = 512
LINE_CHARS_MAX = 4096
LINES_KEPT = 500
_SECRET_WORDS = ("secret", "password", "chap_r", "chap_c", "token")
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

Event = MutableMapping[str, Any]
Render = Callable[[Event], str]

_kept: deque[str] = deque(maxlen=LINES_KEPT)  # of the process, as the log is


def configure(
    level: LogLevel, form: LogFormat, stream: TextIO | None = None, *, node: str = ""
) -> Log:
    """Set the log up, once a process, and return its root; each line names ``node``, if given."""
    stream = cast(TextIO, _Forgiving(stream or sys.stderr))
    render = _keeping(_naming(node, _render_json if form == "json" else _render_text))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            lambda _logger, _method, event: render(event),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_StandardFormatter(render))
    logging.basicConfig(level=_LEVELS[level], handlers=[handler], force=True)
    logging.captureWarnings(True)
    log: Log = structlog.get_logger()
    return log


class _Forgiving:
    """Rule 5."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def recent() -> list[str]:
    """Rule 4, the oldest first."""
    return list(_kept)


def _keeping(render: Render) -> Render:
    def render_and_keep(event: Event) -> str:
        line = render(event)
        _kept.append(line)
        return line

    return render_and_keep


def _naming(node: str, render: Render) -> Render:
    def render_with_name(event: Event) -> str:
        event.setdefault("node", node)
        return render(event)

    return render_with_name if node else render


class _StandardFormatter(logging.Formatter):
    """A record of the standard library in the same form."""

    def __init__(self, render: Render) -> None:
        super().__init__()
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        event: Event = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return self._render(event)


def _render_text(event: Event) -> str:
    """``12:03:55.120 warning login refused initiator=iqn.… address=127.0.0.1``."""
    now = time.time()
    exception = event.pop("exception", None)
    words = [
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now)) + f".{int(now * 1000) % 1000:03d}",
        f"{event.pop('level', 'info'):<7}",
        _plain(str(event.pop("event", "")), quoted=False),
    ]
    words += [f"{key}={_plain(str(value))}" for key, value in _bounded(event).items()]
    line = _cut(" ".join(words), LINE_CHARS_MAX)
    # A traceback is ours, not a peer's: it keeps its lines, and only the bound applies.
    return line if exception is None else f"{line}\n{_tail(str(exception))}"


def _render_json(event: Event) -> str:
    now = time.time()
    exception = event.pop("exception", None)
    fields: dict[str, Any] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        + f".{int(now * 1000) % 1000:03d}Z",
        "level": event.pop("level", "info"),
        "event": _cut(str(event.pop("event", "")), VALUE_CHARS_MAX),
    }
    room = LINE_CHARS_MAX
    for key, value in _bounded(event).items():
        room -= len(key) + len(value) if isinstance(value, str) else len(key) + 24
        if room < 0:
            fields["cut"] = True
            break
        fields[key] = value
    if exception is not None:
        fields["exception"] = _tail(str(exception))
    return json.dumps(fields)


def _bounded(event: Mapping[str, Any]) -> dict[str, Any]:
    """Rules 1 and 2: numbers as they are, everything else as text of bounded length."""
    fields: dict[str, Any] = {}
    for key, value in event.items():
        if any(word in key.lower() for word in _SECRET_WORDS):
            fields[key] = "***"
        elif value is None or isinstance(value, (bool, int, float)):
            fields[key] = value
        else:
            fields[key] = _cut(str(value), VALUE_CHARS_MAX)
    return fields


def _plain(text: str, quoted: bool = True) -> str:
    """``text`` if it is one printable word, else quoted and escaped."""
    if text.isprintable() and (not quoted or (text and " " not in text and '"' not in text)):
        return text
    return json.dumps(text)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _tail(traceback: str) -> str:
    """The end of a traceback says what happened; the bound cuts its beginning."""
    return traceback if len(traceback) <= LINE_CHARS_MAX else f"…{traceback[1 - LINE_CHARS_MAX :]}"
