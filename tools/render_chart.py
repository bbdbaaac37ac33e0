"""Renders deploy/helm/lunmesh with its own values, for those who use no Helm.

    python tools/render_chart.py > deploy/kubernetes/lunmesh.yaml

It knows what the templates of the chart use and nothing else: ``{{ .Values.NAME }}``,
``$.Values.NAME``, ``{{- range .Values.NAME }}`` to ``{{- end }}`` over a list, and ``{{ .NAME }}``
of its items.  Raises ValueError for anything else: what needs Helm is not rendered wrongly.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Final

import yaml

CHART: Final = Path(__file__).resolve().parents[1] / "deploy" / "helm" / "lunmesh"
HEADER: Final = "# Made by `python tools/render_chart.py` from deploy/helm/lunmesh: change that.\n"
RANGE: Final = re.compile(
    r"^\{\{- range \.Values\.(\w+) \}\}\n(.*?)^\{\{- end \}\}\n", re.MULTILINE | re.DOTALL
)
VALUE: Final = re.compile(r"\{\{ (\$?)\.(Values\.)?(\w+) \}\}")


def _fill(text: str, values: dict[str, Any], item: dict[str, Any] | None) -> str:
    """Every action of ``text``; ``item`` is what "." is inside of a range."""

    def value(found: re.Match[str]) -> str:
        root, of_values, name = found.groups()
        # As in Helm: inside a range, "." is the item, and only "$" the top.
        if bool(of_values) != (item is None or bool(root)):
            raise ValueError(f"{found.group()} is nothing here")
        source = values if of_values else item
        if source is None or name not in source:
            raise ValueError(f"{found.group()} has no value")
        return str(source[name])

    filled = VALUE.sub(value, text)
    if "{{" in filled:
        rest = filled[filled.index("{{") :].splitlines()[0]
        raise ValueError(f"not understood: {rest}")
    return filled


def render(template: str, values: dict[str, Any]) -> str:
    """One file of templates."""
    parts: list[str] = []
    end = 0
    for found in RANGE.finditer(template):
        parts.append(_fill(template[end : found.start()], values, None))
        parts += [_fill(found.group(2), values, item) for item in values[found.group(1)]]
        end = found.end()
    parts.append(_fill(template[end:], values, None))
    return "".join(parts)


def render_chart() -> str:
    """All of them, one stream of documents."""
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    files = sorted((CHART / "templates").glob("*.yaml"))
    documents = [render(file.read_text("utf-8"), values) for file in files]
    return HEADER + "---\n".join(documents)


if __name__ == "__main__":
    sys.stdout.write(render_chart())
