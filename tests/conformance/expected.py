"""expected.toml: the tests of the suite that do not pass, and why."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.suite import Outcome

PATH = Path(__file__).with_name("expected.toml")


@dataclass(frozen=True)
class Expectation:
    outcome: Outcome
    reason: str


def load(path: Path = PATH) -> dict[str, Expectation]:
    """By SUITE.TEST. Whatever is not in it has to pass."""
    found: dict[str, Expectation] = {}
    for kind, groups in tomllib.loads(path.read_text()).items():
        outcome = Outcome(kind)
        if outcome is Outcome.PASSED:
            raise ValueError("that a test passes is what is expected anyway")
        for group in groups:
            if set(group) != {"reason", "tests"} or not group["reason"].strip():
                raise ValueError(f"a group has a reason and its tests: {group}")
            for name in group["tests"]:
                if name in found:
                    raise ValueError(f"{name} is there twice")
                found[name] = Expectation(outcome, group["reason"])
    return found
