"""``lunmesh volume …``, and other commands that ask a node, as a user would type them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.lunmesh_server import PROJECT_ROOT, LunmeshServer

SECONDS_MAX = 100


@dataclass(frozen=True)
class Said:
    """What a command has printed, and how it ended."""

    status: int
    out: str
    error: str


class VolumeCommand:
    """The commands for one server; ``group`` is their first word."""

    def __init__(
        self,
        server: LunmeshServer,
        group: str = "volume",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._group = group
        self._admin = server.admin
        self._environ = dict(environ or {})

    def run(self, *arguments: str) -> Said:
        """Whatever comes of it."""
        done = subprocess.run(
            [sys.executable, "-m", "target.cli", self._group, *arguments, "--admin", self._admin],
            cwd=PROJECT_ROOT,
            env={**os.environ, **self._environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def good(self, *arguments: str) -> str:
        """It has to end well."""
        said = self.run(*arguments)
        assert said.status == 0, said.error
        assert said.error == ""
        return said.out

    def json(self, *arguments: str) -> Any:
        """What it says with --json."""
        return json.loads(self.good(*arguments, "--json"))

    def refused(self, *arguments: str, status: int = 1) -> str:
        """The one line that says why not."""
        said = self.run(*arguments)
        assert said.status == status, said
        assert said.out == ""
        assert said.error.startswith("lunmesh: ")
        assert said.error.count("\n") == 1
        return said.error.removeprefix("lunmesh: ").rstrip()
