"""libiscsi's conformance suite, `iscsi-test-cu`, one test to a process.

1. `-d` allows writes, `-S` sanitize; without them whole families skip themselves.
2. The LUN is given twice. The second URL is a second path, which the multipath tests and those with
   two initiators need; where no other is given, both lead through the same portal.
3. `-V` shows every command. Only with it do all tests print the [SKIPPED] by which one sees that
   CUnit's "passed" means that nothing was tested. What is printed after the verdict is the
   teardown's, and no part of the test.
4. A test in a process of its own cannot spoil the next one's session, and a hang is one failure.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from enum import StrEnum

FAMILY = "ALL"
TOOL = "iscsi-test-cu"

# "Test: NAME ...", what the test prints, and the verdict: on that same line if it printed nothing.
_PASSED = re.compile(r"^  Test: \S+ \.\.\.(?P<output>.*?)(?:(?<=\.\.\.)|^)passed", re.M | re.S)
# Of the table at the end: total, ran, passed, failed, inactive.
_SUMMARY = re.compile(r"^ +tests +1 +1 +1 +0 +0 *$", re.M)
_SKIPPED = re.compile(r"\[SKIPPED\] *(.+)")


class Outcome(StrEnum):
    PASSED = "passed"
    SKIPPED = "skipped"
    FAILED = "failed"
    HUNG = "hung"


@dataclass(frozen=True)
class Result:
    outcome: Outcome
    output: str
    skips: tuple[str, ...] = ()  # the reasons that the test gives


def list_tests(path: str) -> list[str]:
    """SUITE.TEST of every test of the family."""
    done = subprocess.run([path, "--list"], capture_output=True, text=True, check=True)
    return re.findall(rf"^{FAMILY}\.([^.\s]+\.[^.\s]+)$", done.stdout, re.M)


def run_test(path: str, name: str, url: str, second: str = "", *, timeout: float) -> Result:
    command = [path, "-d", "-S", "-V", "-t", f"{FAMILY}.{name}", url, second or url]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        return Result(Outcome.HUNG, output)
    return classify(output, process.returncode)


def classify(output: str, status: int) -> Result:
    passed = _PASSED.search(output)
    # A suite that could not even set itself up ends well, with no test run.
    if status != 0 or passed is None or _SUMMARY.search(output) is None:
        return Result(Outcome.FAILED, output)
    skips = tuple(dict.fromkeys(_SKIPPED.findall(passed["output"])))
    return Result(Outcome.SKIPPED if skips else Outcome.PASSED, output, skips)
