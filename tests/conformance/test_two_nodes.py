"""What libiscsi's suite does through two paths, with a node behind each: one disk all the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.suite import TOOL, run_test
from tests.conformance.test_iscsi_test_cu import LUN_512, TEST_TIMEOUT_S, TESTS, judge
from tests.support.node_cluster import NodeCluster
from tests.support.tools import require_tool

FAMILIES = ("Prin", "Prout", "Reserve6", "iSCSITMF", "MultipathIO", "CompareAndWrite")
THROUGH_TWO = [name for name in TESTS if name.startswith(FAMILIES)]


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    folder = tmp_path_factory.mktemp("two-nodes")
    with NodeCluster(folder, ["disk0=100M"], workers=1) as cluster:
        yield tuple(node.url(LUN_512) for node in cluster.nodes)


@pytest.mark.parametrize("name", THROUGH_TWO)
def test_libiscsi_through_two_nodes(urls: tuple[str, str], name: str) -> None:
    result = run_test(require_tool(TOOL), name, *urls, timeout=TEST_TIMEOUT_S)
    if complaint := judge(name, result):
        pytest.fail(f"{complaint}\n{result.output[-4000:]}", pytrace=False)


def test_there_are_tests_for_two_nodes() -> None:
    require_tool(TOOL)
    assert {name.split(".")[0] for name in THROUGH_TWO} >= {"Reserve6", "iSCSITMF", "MultipathIO"}
    assert sum(name.startswith("Prout") for name in THROUGH_TWO) > 15
