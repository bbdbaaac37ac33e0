"""Where a worker is, and how the way to it is protected."""

from __future__ import annotations

from dataclasses import dataclass

WORKER_PORT_DEFAULT = 3270


@dataclass(frozen=True, slots=True)
class WorkerAddress:
    """``unix_path`` (absolute), or ``host`` and ``port``."""

    host: str = ""
    port: int = 0
    unix_path: str = ""

    def __str__(self) -> str:
        if self.unix_path:
            return f"unix:{self.unix_path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class WorkerTls:
    """PEM: whom to believe, and who we are (both or neither of ``certificate`` and ``key``)."""

    ca: bytes
    certificate: bytes | None = None
    key: bytes | None = None

    def __repr__(self) -> str:
        return "WorkerTls(***)"
