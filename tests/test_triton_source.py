"""Rules that the text of Triton's kernels keeps, because the interpreter would not show where they are broken."""

import ast
from pathlib import Path

import pytest

import lmdis_fast

FILES = sorted((Path(lmdis_fast.__file__).parent / "kernels").glob("*.py"))


def methods(tree: ast.AST, name: str) -> list[ast.Call]:
    """Calls of something's ``name``."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == name]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_loaded_is_converted_at_once(path: Path) -> None:
    """bf16 arithmetic is wrong in the interpreter and coarse on a GPU."""
    tree = ast.parse(path.read_text())
    converted = {id(call.func.value) for call in methods(tree, "to") if isinstance(call.func, ast.Attribute)}
    bare = [call.lineno for call in methods(tree, "load") if id(call) not in converted]
    assert not bare, f"{path.name}: tl.load without .to() in lines {bare}"


def test_some_file_loads() -> None:
    assert sum(len(methods(ast.parse(path.read_text()), "load")) for path in FILES) > 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_products_of_matrices_say_their_precision(path: Path) -> None:
    """The default rounds float32 to ten bits."""
    for call in methods(ast.parse(path.read_text()), "dot"):
        assert "input_precision" in {word.arg for word in call.keywords}, f"{path.name}:{call.lineno}"
