"""Every test of libiscsi's suite does what expected.toml says.

On disks of either block size, of the larger one by the compiled build; of the smaller one also on
workers with files, and with Ceph.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance import expected
from tests.conformance.suite import TOOL, Outcome, Result, list_tests, run_test
from tests.support.backing import COMPILED, EMBEDDED, RADOS, WORKERS, backed
from tests.support.ceph_cluster import CephCluster
from tests.support.tools import require_tool

# The slowest test takes three seconds on an idle machine, nearly all of it waiting.
TEST_TIMEOUT_S = 45
SIZE = "100M"
# Volumes in LUN order; the suite's test of read-only units needs one.
LUN_512, LUN_4096, LUN_READ_ONLY = 0, 1, 2
VOLUMES = [f"disk0={SIZE}", f"disk1={SIZE},block=4096", f"disk2={SIZE},readonly"]
READ_ONLY_TESTS = {"ReadOnly.ReadOnlySBC"}

EXPECTED = expected.load()
_TOOL_PATH = shutil.which(TOOL)
# Without the tool there is nothing to list: one test remains, and says so.
TESTS = list_tests(_TOOL_PATH) if _TOOL_PATH else ["all"]


class Target:
    """A server that is replaced, data and all, when a test may have left something behind."""

    def __init__(self, folder: Path, backing: Callable[[], str]) -> None:
        self._folder = folder
        self._backing = backing  # a new one for each server
        self._started = 0
        self._running = contextlib.ExitStack()
        self.replace()

    def replace(self) -> None:
        """A reservation that one failed test leaves would fail all that follow."""
        self.close()
        self._started += 1
        folder = self._folder / f"target{self._started}"
        self.server = self._running.enter_context(backed(self._backing(), folder, VOLUMES))

    def close(self) -> None:
        """End it, and what is behind it."""
        self._running.close()


@pytest.fixture(scope="module")
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    def backing() -> str:
        kind: str = request.param
        if kind != RADOS:
            return kind
        cluster: CephCluster = request.getfixturevalue("ceph")
        return f"{RADOS}{cluster.create_pool()}@{cluster.conf}"

    target = Target(tmp_path_factory.mktemp("conformance"), backing)
    yield target
    target.close()


def judge(name: str, result: Result) -> str:
    """What is wrong with the result; nothing, if it is as expected."""
    wanted = EXPECTED.get(name)
    if wanted is None and result.outcome is Outcome.PASSED:
        return ""
    if wanted is not None and wanted.outcome is result.outcome:
        return ""
    said = "".join(f"\n  {skip}" for skip in result.skips)
    if wanted is not None:
        advice = "; it leaves that file" if result.outcome is Outcome.PASSED else ""
        return (
            f"{name}: {result.outcome}, while expected.toml says {wanted.outcome} "
            f"({wanted.reason}){advice}{said}"
        )
    return f"{name}: {result.outcome}{said}"


@pytest.mark.parametrize(
    ("target", "lun"),
    [
        pytest.param(EMBEDDED, LUN_512, id="512"),
        # The first of them compiles it.
        pytest.param(COMPILED, LUN_4096, id="4096-compiled", marks=pytest.mark.timeout(600)),
        pytest.param(WORKERS, LUN_512, id="workers"),
        pytest.param(RADOS, LUN_512, id="rados", marks=pytest.mark.ceph),
    ],
    indirect=["target"],
    scope="module",
)
@pytest.mark.parametrize("name", TESTS)
def test_libiscsi(target: Target, name: str, lun: int) -> None:
    if name in READ_ONLY_TESTS:
        lun = LUN_READ_ONLY
    tool = require_tool(TOOL)
    result = run_test(tool, name, target.server.url(lun), timeout=TEST_TIMEOUT_S)
    if result.outcome in (Outcome.FAILED, Outcome.HUNG):
        target.replace()
    if complaint := judge(name, result):
        pytest.fail(f"{complaint}\n{result.output[-4000:]}", pytrace=False)


def test_expected_toml_names_tests_that_exist() -> None:
    require_tool(TOOL)
    assert sorted(set(EXPECTED) - set(TESTS)) == []


def test_the_suite_is_the_one_that_is_known() -> None:
    """Of libiscsi 1.19. Another number means another version: look at what it has anew."""
    require_tool(TOOL)
    assert len(TESTS) == len(set(TESTS)) == 230
