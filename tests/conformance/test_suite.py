"""How the output of `iscsi-test-cu` is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance import expected
from tests.conformance.suite import Outcome, classify, run_test

SUMMARY = """

Run Summary:    Type  Total    Ran Passed Failed Inactive
              suites      1      1    n/a      0        0
               tests      1      1      {passed}      {failed}        0
             asserts      6      6      5      1      n/a
"""
GOOD, BAD = SUMMARY.format(passed=1, failed=0), SUMMARY.format(passed=0, failed=1)
HEAD = "    [SKIPPED] of the setup\n\nSuite: Read10\n"


@pytest.mark.parametrize(
    ("output", "outcome"),
    [
        (HEAD + "  Test: Simple ...passed" + GOOD, Outcome.PASSED),
        (HEAD + "  Test: Simple ...\n    Send READ10\npassed" + GOOD, Outcome.PASSED),
        (HEAD + "  Test: Simple ...passed    [SKIPPED] of the teardown" + GOOD, Outcome.PASSED),
        (HEAD + "  Test: Simple ...    [SKIPPED] no READ10.\npassed" + GOOD, Outcome.SKIPPED),
        (HEAD + "  Test: Simple ...\n    [OK]\n    [SKIPPED] x\npassed" + GOOD, Outcome.SKIPPED),
        (HEAD + "  Test: Simple ...FAILED\n    1. a.c:9  - CU_FAIL" + BAD, Outcome.FAILED),
        (HEAD + "  Test: Simple ...\n    [SKIPPED] x\nFAILED" + BAD, Outcome.FAILED),
        (HEAD + "  Test: Simple ...\n    Send READ10\n", Outcome.FAILED),
        ("login failed\n", Outcome.FAILED),
        (SUMMARY.format(passed=0, failed=0), Outcome.FAILED),
    ],
)
def test_outcomes(output: str, outcome: Outcome) -> None:
    assert classify(output, 0).outcome is outcome


def test_a_crash_is_a_failure_whatever_was_printed() -> None:
    assert classify(HEAD + "  Test: Simple ...passed" + GOOD, -6).outcome is Outcome.FAILED


def test_the_reasons_of_a_skip_are_kept_once() -> None:
    text = "  Test: Simple ...    [SKIPPED] no READ10.\n    [SKIPPED] no READ10.\npassed" + GOOD
    assert classify(text, 0).skips == ("no READ10.",)


def test_a_hang_ends_with_its_timeout(tmp_path: Path) -> None:
    stuck = tmp_path / "stuck"
    stuck.write_text("#!/bin/sh\necho begun\nexec tail -f /dev/null\n")
    stuck.chmod(0o755)
    result = run_test(str(stuck), "Read10.Simple", "iscsi://nowhere", timeout=1)
    assert result.outcome is Outcome.HUNG
    assert result.output == "begun\n"


def test_a_test_is_expected_once_and_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "expected.toml"
    path.write_text('[[failed]]\nreason = "r"\ntests = ["A.B"]\n')
    assert expected.load(path) == {"A.B": expected.Expectation(Outcome.FAILED, "r")}
    path.write_text('[[failed]]\nreason = "r"\ntests = ["A.B"]\n' * 2)
    with pytest.raises(ValueError, match="twice"):
        expected.load(path)
    path.write_text('[[skipped]]\nreason = " "\ntests = ["A.B"]\n')
    with pytest.raises(ValueError, match="reason"):
        expected.load(path)
