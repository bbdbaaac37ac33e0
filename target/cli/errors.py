"""What commands raise, and how the system's own errors are said."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Any


class CliError(Exception):
    """A command that could not be done; its text is the line the user sees.

    ``problem`` has what a node has said of it, as RFC 9457 names it.
    """

    def __init__(
        self, message: str, status: int = 1, problem: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.problem = dict(problem or {})


def explain(exc: OSError) -> str:
    """``lunmesh-data: permission denied``."""
    if exc.errno is None:
        return str(exc) or type(exc).__name__
    # asyncio and uvloop put a sentence of their own into strerror.
    reason = os.strerror(exc.errno) if exc.errno in errno.errorcode else str(exc.strerror)
    reason = reason[:1].lower() + reason[1:]
    return f"{os.fsdecode(exc.filename)}: {reason}" if exc.filename else reason
