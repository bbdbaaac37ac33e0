"""``--audit-log FILE``: who has changed what through the admin API, whatever the log's level is.

1. A line is a JSON object and one write to the end of the file, which is opened anew for it: it may
   be renamed at any time (logrotate), and several processes may share it.
2. The file is only its owner's.  What it says of a call is what the log may say (``guard.py``).
3. A thread writes: a disk that hangs keeps the caller waiting, not the sessions.
4. A line that cannot be written is an error in the log; the change has happened.
"""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from target.logs import Log

MODE = 0o600


class AuditFile:
    """Lines of ``node`` in ``path``."""

    def __init__(self, path: Path, node: str, log: Log) -> None:
        self._path = path
        self._node = node
        self._log = log

    def check(self) -> None:
        """Raises OSError, which names the file, unless lines can be written."""
        self._append(b"")

    async def write(self, **call: Any) -> None:
        """Rules 1, 3 and 4."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = msgspec.json.encode({"time": at, "node": self._node, **call}) + b"\n"
        try:
            await asyncio.to_thread(self._append, line)
        except OSError as exc:
            self._log.error("audit line lost", file=str(self._path), reason=str(exc), **call)

    def _append(self, line: bytes) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
        try:
            if os.write(file, line) < len(line):
                raise OSError(None, "written in part", str(self._path))
        finally:
            os.close(file)
