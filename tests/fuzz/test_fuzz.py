"""At least 200,000 mutated streams: no crash, nothing leaked, no growth (issue 2, point 4)."""

from __future__ import annotations

import os

import pytest

from tests.fuzz.run import SCSI_RESPONSE, Fuzzer

STREAMS = int(os.environ.get("LUNMESH_FUZZ_STREAMS", "200000"))
GROWTH_BYTES_MAX = 16 << 20


@pytest.mark.fuzz
@pytest.mark.timeout(900)
def test_mutated_streams_break_nothing() -> None:
    report = Fuzzer(seed=20261122).run(STREAMS)
    print(report)
    assert report.streams == STREAMS
    # The streams have to get somewhere to be worth anything.
    assert report.full_feature > STREAMS // 10
    assert report.answers[SCSI_RESPONSE] > STREAMS // 10
    assert report.memory_growth_bytes < GROWTH_BYTES_MAX
