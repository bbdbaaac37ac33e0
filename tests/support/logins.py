"""Whether an initiator gets in."""

from __future__ import annotations

from tests.support.initiator import DEFAULT_NAME, Initiator, LoginRefused
from tests.support.lunmesh_server import LunmeshServer

IQN = "iqn.2026-11.io.lunmesh:target"


def may_log_in(
    node: LunmeshServer,
    name: str = DEFAULT_NAME,
    *,
    target: str = IQN,
    chap: tuple[str, str] | None = None,
) -> bool:
    with Initiator(node.host, node.port, target=target, name=name) as initiator:
        try:
            initiator.login(chap=chap)
        except LoginRefused:
            return False
        return True
