"""What a process says over HTTP to whoever watches it."""

from __future__ import annotations

import http.client
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

SECONDS_MAX = 30


@dataclass(frozen=True)
class Page:
    """An answer."""

    status: int
    text: str


def page(address: str, path: str) -> Page:
    """GET ``path`` of HOST:PORT."""
    connection = http.client.HTTPConnection(address, timeout=SECONDS_MAX)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return Page(response.status, response.read().decode())
    finally:
        connection.close()


class Samples:
    """All samples of a scrape, by name and labels."""

    def __init__(self, text: str) -> None:
        self.names: set[str] = set()
        self._samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.names.add(sample.name)
                self._samples[sample.name, frozenset(sample.labels.items())] = sample.value

    def __len__(self) -> int:
        return len(self._samples)

    def get(self, name: str, **labels: str) -> float:
        """0 for what is not there: counters appear when they count."""
        return self._samples.get((f"lunmesh_{name}", frozenset(labels.items())), 0.0)

    def gauge(self, name: str, **labels: str) -> float:
        """Raises KeyError for what is not there."""
        return self._samples[f"lunmesh_{name}", frozenset(labels.items())]

    def values(self, name: str) -> list[float]:
        """Of all label values."""
        return [value for (found, _), value in self._samples.items() if found == f"lunmesh_{name}"]


def scrape(address: str) -> Samples:
    """/metrics, as Prometheus understands it."""
    answer = page(address, "/metrics")
    assert answer.status == 200, answer
    return Samples(answer.text)
