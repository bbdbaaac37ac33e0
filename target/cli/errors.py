"""What commands raise, and how the system's own errors are said."""

from __future__ import annotations

import errno
import os


class CliError(Exception):
    """A command that could not be done; its text is the line the user sees."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def explain(exc: OSError) -> str:
    """``lunmesh-data: permission denied``."""
    if exc.errno is None:
        return str(exc) or type(exc).__name__
    # asyncio and uvloop put a sentence of their own into strerror.
    reason = os.strerror(exc.errno) if exc.errno in errno.errorcode else str(exc.strerror)
    reason = reason[:1].lower() + reason[1:]
    return f"{os.fsdecode(exc.filename)}: {reason}" if exc.filename else reason
