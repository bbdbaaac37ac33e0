"""Where Ceph's Python module comes from, and what is said when it is not there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from workers import rados_module
from workers.rados_module import RadosError, import_rados


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only place where the module is looked for; nothing is there."""
    monkeypatch.setitem(sys.modules, "rados", sys)  # what there is now comes back at the end
    del sys.modules["rados"]
    monkeypatch.setattr(sys, "path", [str(tmp_path / "empty")])
    monkeypatch.setattr(rados_module, "SYSTEM_PACKAGES", (str(tmp_path),))
    return tmp_path


def test_it_is_said_what_to_install(nowhere: Path) -> None:
    with pytest.raises(RadosError, match="apt install python3-rados"):
        import_rados()


def test_it_alone_is_taken_from_the_system(nowhere: Path) -> None:
    (nowhere / "rados.py").write_text("import sys\nmine = 'found'\n")
    (nowhere / "neighbour.py").write_text("")
    path = list(sys.path)
    found = import_rados()
    assert found.mine == "found"
    assert import_rados() is found
    assert sys.path == path
    with pytest.raises(ImportError):
        __import__("neighbour")


def test_one_that_cannot_be_loaded_is_one_line(nowhere: Path) -> None:
    (nowhere / "rados.py").write_text("raise ImportError('librados.so.2: no such file')\n")
    with pytest.raises(RadosError, match=r"librados\.so\.2"):
        import_rados()
    assert "rados" not in sys.modules
