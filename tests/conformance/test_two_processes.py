"""What libiscsi's suite does with two initiators, whose sessions are in two processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from target.rendezvous import process_of
from tests.conformance.suite import TOOL, run_test
from tests.conformance.test_iscsi_test_cu import LUN_512, TEST_TIMEOUT_S, TESTS, judge
from tests.support.node_cluster import NodeCluster
from tests.support.tools import require_tool

# As the suite calls its two initiators.
INITIATORS = [f"iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-test{n}" for n in ("", "-2")]
FAMILIES = ("Prout", "Reserve6.2Initiators", "iSCSITMF", "CompareAndWrite")
THROUGH_TWO = [name for name in TESTS if name.startswith(FAMILIES)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("two-processes")
    arguments = ("--processes", "2", "--admin", "off")
    with NodeCluster(folder, ["disk0=100M"], nodes=1, workers=1, arguments=arguments) as cluster:
        yield cluster.nodes[0].url(LUN_512)


@pytest.mark.parametrize("name", THROUGH_TWO)
def test_libiscsi_through_two_processes(url: str, name: str) -> None:
    assert {process_of(initiator, 2) for initiator in INITIATORS} == {1, 2}
    result = run_test(require_tool(TOOL), name, url, timeout=TEST_TIMEOUT_S)
    if complaint := judge(name, result):
        pytest.fail(f"{complaint}\n{result.output[-4000:]}", pytrace=False)
