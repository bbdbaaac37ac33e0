"""What a running Prometheus is asked, and what the project's dashboard asks it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Final

from tests.support.lunmesh_server import PROJECT_ROOT

COMPOSE: Final = PROJECT_ROOT / "deploy" / "compose"
SECONDS_MAX: Final = 60
PAUSE_SECONDS: Final = 0.1
# What there is of these in a cluster where nothing is wrong: samples, or none.
RARE: Final = ("failures", "task_management")


def drawn() -> list[str]:
    """The expressions of the dashboard."""
    text = (COMPOSE / "grafana" / "dashboards" / "lunmesh.json").read_text("utf-8")
    panels = json.loads(text)["panels"]
    return [it["expr"] for panel in panels for it in panel.get("targets", ())]


class Prometheus:
    """The one at ``address``, HOST:PORT."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, what: str, **query: str) -> Any:
        url = f"http://{self.address}/api/v1/{what}?{urllib.parse.urlencode(query)}"
        deadline = time.monotonic() + SECONDS_MAX
        while True:
            try:
                with urllib.request.urlopen(url, timeout=SECONDS_MAX) as answer:
                    return json.load(answer)["data"]
            except urllib.error.HTTPError as exc:
                if exc.code != 503:  # it is starting
                    raise AssertionError(f"{query}: {exc.read().decode()}") from exc
            except OSError:
                pass
            assert time.monotonic() < deadline, "it does not answer"

    def samples(self, expression: str) -> list[Any]:
        found: list[Any] = self.ask("query", query=expression)["result"]
        return found

    def until_told(self, expression: str) -> None:
        """Wait until it has samples."""
        deadline = time.monotonic() + SECONDS_MAX
        while not self.samples(expression):
            assert time.monotonic() < deadline, f"nothing of {expression}"
            time.sleep(PAUSE_SECONDS)

    def firing(self) -> set[str]:
        alerts = self.ask("alerts")["alerts"]
        return {it["labels"]["alertname"] for it in alerts if it["state"] == "firing"}

    def until_all_drawn(self) -> None:
        """Wait until everything that the dashboard draws has samples."""
        for expression in drawn():
            if not any(rare in expression for rare in RARE):
                self.until_told(expression)

    def until_firing(self, *names: str) -> None:
        """Wait until these alerts fire."""
        deadline = time.monotonic() + SECONDS_MAX
        while not self.firing() >= set(names):
            assert time.monotonic() < deadline, self.firing()
            time.sleep(PAUSE_SECONDS)
