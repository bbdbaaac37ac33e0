"""What mypyc asks of the modules that it compiles, and mypy does not (setup.py).

Each of these compiles without a word, and fails when it runs.
"""

from __future__ import annotations

import ast
import importlib
import re
import runpy
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import compiled

ROOT = Path(__file__).resolve().parents[2]
HOT = re.findall(r'"((?:target|workers)/[^"]+)"', (ROOT / "setup.py").read_text())
SOURCES = [path for folder in ("target", "workers") for path in (ROOT / folder).rglob("*.py")]


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("name", HOT)
def test_a_name_that_except_binds_has_one_type_in_a_function(name: str) -> None:
    for function in _functions(_tree(ROOT / name)):
        types = defaultdict(set)
        for node in ast.walk(function):
            if isinstance(node, ast.ExceptHandler) and node.name and node.type:
                types[node.name].add(ast.unparse(node.type))
        assert [it for it, found in types.items() if len(found) > 1] == [], function.name


@pytest.mark.parametrize("name", HOT)
def test_no_super_in_a_function_of_a_method(name: str) -> None:
    for method in _functions(_tree(ROOT / name)):
        for function in (it for node in method.body for it in _functions(node)):
            called = [it.func for it in ast.walk(function) if isinstance(it, ast.Call)]
            assert "super" not in [ast.unparse(it) for it in called], method.name


@pytest.mark.parametrize("name", HOT)
def test_defaults_of_a_class_are_literals(name: str) -> None:
    """What is none has no value in an instance."""
    for node in ast.walk(_tree(ROOT / name)):
        if isinstance(node, ast.ClassDef) and not node.decorator_list:
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and line.value is not None:
                    if "ClassVar" not in ast.unparse(line.annotation):
                        ast.literal_eval(line.value)


def test_nothing_that_is_interpreted_is_made_of_what_is_compiled() -> None:
    compiled = {name.removesuffix(".py").replace("/", ".") for name in HOT}
    for path in SOURCES:
        if str(path.relative_to(ROOT)) in HOT:
            continue
        tree = _tree(path)
        imported = {
            alias.asname or alias.name: node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for node in ast.walk(tree):
            for base in node.bases if isinstance(node, ast.ClassDef) else ():
                assert imported.get(ast.unparse(base).split("[")[0]) not in compiled, path


@pytest.mark.skipif(bool(compiled.missing()), reason="needs a C compiler")
@pytest.mark.parametrize(("source", "built"), [("int one;", 2), ("#error too large", 0)])
def test_what_is_compiled_in_part_is_not_compiled(tmp_path: Path, source: str, built: int) -> None:
    """Each module would look for the library that has failed, and not be there at all."""
    (tmp_path / "module.c").write_text("int module;")
    (tmp_path / "library.c").write_text(source)
    setuptools = importlib.import_module("setuptools")  # has no types
    modules = [
        setuptools.Extension(name, [f"{tmp_path / name}.c"]) for name in ("module", "library")
    ]
    for module in modules:
        module.optional = True
    command = runpy.run_path(str(ROOT / "setup.py"))["AllOrNone"](
        setuptools.Distribution({"ext_modules": modules})
    )
    command.build_lib, command.build_temp = str(tmp_path / "lib"), str(tmp_path / "temp")
    command.ensure_finalized()
    command.run()
    assert len(list(tmp_path.rglob("*.so"))) == built
