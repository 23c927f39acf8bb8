"""Commands that only read files and ask the local cloud don't wait for the import of the SDKs of Pulumi and MCP."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

OURS = ("mcpfleet", "mcpfleet_local_cloud", "mcpfleet_server", "pulumi_mcpfleet")
SLOW = {"mcp", "pulumi", "pulumi_gcp", "pulumi_docker_build"}


def imported_at_once(module):
    """The modules that are imported with *module*: those of its statements outside of functions and TYPE_CHECKING."""
    spec = find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return
    waiting = list(ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            if node.module.partition(".")[0] in OURS:
                yield from (name for alias in node.names if find_module(name := f"{node.module}.{alias.name}"))
        elif isinstance(node, ast.Try | ast.ClassDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test)
        ):
            waiting += node.body


def find_module(name):
    """Whether a name is a module, and not a part of one."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("module", ["mcpfleet_local_cloud.commands.stack", "mcpfleet.cli"])
def test_the_commands_import_no_sdk_before_they_need_it(module):
    waiting, importers = [module], {module: ""}
    while waiting:
        importer = waiting.pop()
        for name in imported_at_once(importer):
            assert name.partition(".")[0] not in SLOW, f"{importer} imports {name}; {importers}"
            if name.partition(".")[0] in OURS and name not in importers:
                importers[name] = importer
                waiting.append(name)
    assert len(importers) > 5
