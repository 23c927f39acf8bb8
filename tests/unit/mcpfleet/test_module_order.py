"""The package's docstring lists every module, in an order in which each imports only modules before it."""

import ast
import re
from pathlib import Path

import mcpfleet

ORDER = re.findall(r"`(\w+)`", mcpfleet.__doc__)
FILES = {file.stem: file for file in Path(mcpfleet.__file__).parent.glob("*.py") if file.stem != "__init__"}


def imported(file):
    """The modules of the package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "mcpfleet":
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mcpfleet."):
            yield node.module.split(".")[1]


def test_every_module_has_a_place():
    assert FILES.keys() == set(ORDER)
    assert len(ORDER) == len(set(ORDER))


def test_no_module_imports_a_module_that_comes_after_it():
    later = {
        name: [item for item in imported(file) if ORDER.index(item) >= ORDER.index(name)]
        for name, file in FILES.items()
    }
    assert {name: result for name, result in later.items() if result} == {}
