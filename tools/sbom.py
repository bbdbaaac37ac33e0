"""Write build/sbom.json: what an installed lunmesh consists of, as CycloneDX 1.6.  `make sbom`.

Of the distribution and what it needs to run, as they are installed here: names, versions, licences,
and who needs whom.  The same environment gives the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = "lunmesh"
FILE = Path(__file__).resolve().parents[1] / "build" / "sbom.json"


def main() -> None:
    """Write it."""
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(document(), indent=2) + "\n", encoding="utf-8")
    print(FILE.relative_to(Path.cwd()) if FILE.is_relative_to(Path.cwd()) else FILE)


def document() -> dict[str, Any]:
    """The bill; raises PackageNotFoundError where something that is needed is not installed."""
    needs = needed()
    found = {name: distribution(name) for name in needs}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _component(ROOT, found[ROOT]) | {"type": "application"}},
        "components": [_component(name, found[name]) for name in sorted(found) if name != ROOT],
        "dependencies": [
            {
                "ref": _ref(name, found[name]),
                "dependsOn": [_ref(it, found[it]) for it in needs[name]],
            }
            for name in sorted(needs)
        ],
    }


def needed() -> dict[str, list[str]]:
    """By name, what each needs directly."""
    needs: dict[str, list[str]] = {}
    waiting = [ROOT]
    while waiting:
        name = waiting.pop()
        if name not in needs:
            needs[name] = sorted(set(_requirements(distribution(name))))
            waiting += needs[name]
    return needs


def _requirements(of: Distribution) -> Iterator[str]:
    for line in of.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _normal(requirement.name)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _ref(name: str, it: Distribution) -> str:
    return f"pkg:pypi/{name}@{it.version}"


def _component(name: str, it: Distribution) -> dict[str, Any]:
    component = {
        "type": "library",
        "bom-ref": _ref(name, it),
        "name": name,
        "version": it.version,
        "purl": _ref(name, it),
    }
    licence = _licence(it)
    return component | ({"licenses": licence} if licence else {})


def _licence(it: Distribution) -> list[dict[str, Any]]:
    """An SPDX expression where the package has one, else what it calls its licence."""
    if "License-Expression" in it.metadata:
        return [{"expression": it.metadata["License-Expression"]}]
    classifiers = it.metadata.get_all("Classifier") or []
    names = [text.rpartition(" :: ")[2] for text in classifiers if text.startswith("License ::")]
    if not names and "License" in it.metadata:
        names = [it.metadata["License"].strip().splitlines()[0]]
    return [{"license": {"name": name}} for name in names]


if __name__ == "__main__":
    main()
