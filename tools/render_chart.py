"""Renders deploy/helm/lunmesh with its own values, for those who use no Helm.

python -m tools.render_chart > deploy/kubernetes/lunmesh.yaml
"""

from __future__ import annotations

import sys
from typing import Final

from tools.helm import Helm, HelmMissing

HEADER: Final = "# Made by `python -m tools.render_chart` from deploy/helm/lunmesh: change that.\n"
RELEASE: Final = "lunmesh"


def render_chart(helm: Helm) -> str:
    """All objects, one stream of documents."""
    return HEADER + helm.template(RELEASE)


if __name__ == "__main__":
    try:
        sys.stdout.write(render_chart(Helm.fetch()))
    except HelmMissing as exc:
        sys.exit(str(exc))
