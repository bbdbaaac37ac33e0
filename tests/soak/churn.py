"""What goes on beside reads and writes: volumes, access entries and sessions come and go."""

from __future__ import annotations

import http.client
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from target.admin.client import AdminClient, NodeAway, Refused
from target.config.values import parse_portal
from target.volume_errors import NotEverywhere
from tests.chaos.cluster import Cluster
from tests.soak.sample import CHURNED
from tests.support import cdb
from tests.support import reservations as pr
from tests.support.initiator import Initiator, LoginRefused
from tests.support.iscsi_socket import Disconnected, NoAnswer
from tests.support.scrape import page

EVERYBODY = {"initiator": "iqn.*"}
_PAUSE_SECONDS = 0.2
_REASON_CHARS = 120
_NUMBERS = re.compile(r"\d+")  # ports and counts, so that the same reason is counted as one
_LOGIN_SECONDS = 4.0
_SIZE = 16 << 20
_VISITOR = {"initiator": "iqn.2026-11.com.example:visitor", "volumes": {"disk0": "ro"}}
_KEY = 0xC0FFEE
_TARGET = "iqn.2026-11.io.lunmesh:comes-and-goes"
_VOLUME_PATH = f"/v1/volumes/{CHURNED}?force=yes"
_ACCESS_PATH = f"/v1/acls?initiator={_VISITOR['initiator']}"
# What may be meant by it: a node or Redis is away, or has lost its memory.
_EXPECTED = (
    *(NodeAway, Refused, NotEverywhere, Disconnected, NoAnswer, LoginRefused),
    *(OSError, http.client.HTTPException),
)


class Churn:
    """Runs in a thread until it is stopped; ``done`` and ``failed`` count by what was tried,
    ``reasons`` why it failed."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._servers = [node.server for node in cluster.nodes]
        self._random = random.Random(f"churn {seed}")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="churn")
        self.error: BaseException | None = None
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def __enter__(self) -> Churn:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        tries: dict[str, Callable[[], Any]] = {
            "create": lambda: self._ask("POST", "/v1/volumes", {"name": CHURNED, "size": _SIZE}),
            "resize": lambda: self._ask("PATCH", f"/v1/volumes/{CHURNED}", {"size": 2 * _SIZE}),
            "delete": lambda: self._delete(_VOLUME_PATH),
            "acl create": lambda: self._ask("PUT", "/v1/acls", _VISITOR),
            "acl delete": lambda: self._delete(_ACCESS_PATH),
            "login": self._visit,
            "scrape": lambda: page(self._random.choice(self._servers).admin, "/metrics"),
            "target create": lambda: self._ask("POST", "/v1/targets", {"name": _TARGET}),
            "target delete": lambda: self._delete(f"/v1/targets?name={_TARGET}"),
            "report": lambda: page(self._random.choice(self._servers).admin, "/v1/report"),
            "tasks": lambda: page(self._random.choice(self._servers).admin, "/v1/tasks"),
        }
        try:
            while not self._stop.wait(_PAUSE_SECONDS):
                for name, attempt in tries.items():
                    try:
                        attempt()
                        self.done[name] += 1
                    except _EXPECTED as exc:
                        self.failed[name] += 1
                        self.reasons[f"{name}: {_NUMBERS.sub('N', str(exc))[:_REASON_CHARS]}"] += 1
        except BaseException as exc:
            self.error = exc

    def _client(self) -> AdminClient:
        return AdminClient(parse_portal(self._random.choice(self._servers).admin))

    def _ask(self, method: str, path: str, body: Any) -> None:
        self._client().send(method, path, body, dict)

    def _delete(self, path: str) -> None:
        self._client().delete(path)

    def _visit(self) -> None:
        server = self._random.choice(self._servers)
        with Initiator(
            server.host,
            server.port,
            target=server.iqn,
            name="iqn.2026-11.com.example:visitor",
            timeout=_LOGIN_SECONDS,
        ) as visitor:
            visitor.login()
            while visitor.command(cdb.TEST_UNIT_READY).sense_key:
                pass
            visitor.command(pr.pr_out(pr.REGISTER_AND_IGNORE), data_out=pr.keys(0, _KEY))
            visitor.command(pr.pr_in(pr.READ_FULL_STATUS), read_length=4096)
            visitor.command(pr.pr_out(pr.REGISTER_AND_IGNORE), data_out=pr.keys(0, 0))
            visitor.logout()

    def clear(self, seconds: float) -> None:
        """What is left of it goes: once everything is whole again that has to succeed."""
        deadline = time.monotonic() + seconds
        client = AdminClient(parse_portal(self._servers[0].admin))
        for path in (
            f"/v1/volumes/{CHURNED}?force=yes",
            f"/v1/acls?initiator={_VISITOR['initiator']}",
            f"/v1/targets?name={_TARGET}",
        ):
            while True:
                try:
                    client.delete(path)
                except (Refused, NodeAway, NotEverywhere) as exc:
                    if isinstance(exc, Refused) and exc.problem.status == 404:
                        break
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(_PAUSE_SECONDS)
                else:
                    break
