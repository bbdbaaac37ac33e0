"""Metric families with a name, a help text and labels; samples are added by label values."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

PREFIX = "lunmesh_"


def counter(name: str, text: str, labels: Sequence[str] = ()) -> CounterMetricFamily:
    """Its samples are called ``NAME_total``."""
    return CounterMetricFamily(PREFIX + name, text, labels=labels)


def gauge(name: str, text: str, labels: Sequence[str] = ()) -> GaugeMetricFamily:
    """What goes up and down."""
    return GaugeMetricFamily(PREFIX + name, text, labels=labels)


def histogram(name: str, text: str, labels: Sequence[str] = ()) -> HistogramMetricFamily:
    """Its samples are ``NAME_bucket``, ``NAME_count`` and ``NAME_sum``."""
    return HistogramMetricFamily(PREFIX + name, text, labels=labels)


@functools.cache
def _edges(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return (*(f"{bound:g}" for bound in bounds), "+Inf")


def cumulative(bounds: tuple[float, ...], counts: Iterable[int]) -> list[tuple[str, float]]:
    """A histogram's sample, of how many are in each bucket: up to each bound, and beyond."""
    totals = itertools.accumulate(counts)
    return [(edge, float(total)) for edge, total in zip(_edges(bounds), totals, strict=False)]


def of_one(family: CounterMetricFamily | GaugeMetricFamily, value: float) -> Metric:
    """``family`` with its only sample."""
    family.add_metric((), value)
    return family
