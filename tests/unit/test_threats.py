"""Each row of the threat model has tests that exist, and each listed test has a row."""

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "threat-model.md").read_text()
PROVEN = yaml.safe_load((ROOT / "tests" / "threats.yaml").read_text())
TEXT_ONLY = {"I1"}
"""Rows that say of themselves that nothing here can prove them."""


def named_in(file):
    """The names of a file's tests."""
    tree = ast.parse((ROOT / file).read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {one.name for one in functions if one.name.startswith("test_")}


def test_every_row_has_its_tests_and_every_entry_its_row():
    rows = re.findall(r"^\| ([A-Z][0-9]+) \|", PAGE, re.MULTILINE)
    assert len(rows) == len(set(rows)) > 20
    assert set(rows) == set(PROVEN)
    assert {row for row, named in PROVEN.items() if not named} == TEXT_ONLY


@pytest.mark.parametrize("row", PROVEN)
def test_what_proves_a_row_is_there(row):
    for named in PROVEN[row]:
        file, _, test = named.partition("::")
        assert (ROOT / file).is_file(), f"{row}: {file}"
        found = named_in(file)
        assert found, f"{row}: {file} has no test"
        assert not test or test in found, f"{row}: {named}"
