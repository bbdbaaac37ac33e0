"""What is pinned can be installed where the README says so: Debian 12 has Python 3.11.2."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from packaging.specifiers import SpecifierSet

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
OLDEST = "3.11.2"


def test_every_pin_is_for_the_python_of_debian() -> None:
    names = re.findall(r"^([\w.-]+)==", CONSTRAINTS.read_text(), re.M)
    assert len(names) > 50
    for name in names:
        try:
            needs = metadata(name).json.get("requires_python")
        except PackageNotFoundError:
            continue  # for other machines
        assert SpecifierSet(str(needs or "")).contains(OLDEST), f"{name}: {needs}"
