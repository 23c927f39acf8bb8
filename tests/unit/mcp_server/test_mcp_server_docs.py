"""The tables of variables and clients in docs/mcp-server.md agree with the code."""

import re
from pathlib import Path

from pydantic_core import PydanticUndefined

from mcpfleet_server.environment import fleet_variable
from mcpfleet_server.hosting.settings import Settings
from pulumi_mcpfleet.environment import AUDIENCE, INJECTED
from tests.unit.mcp_server import table_of_clients

PAGE = Path(__file__).parents[3] / "docs" / "mcp-server.md"
PART = re.compile(r"(<!-- variables: .*? -->\n).*?(<!-- end of variables -->)", re.DOTALL)
CLIENTS = re.compile(r"(<!-- clients -->\n).*?(<!-- end of clients -->)", re.DOTALL)
PLATFORM = {"PORT", "K_SERVICE", "K_REVISION"}


def default(field) -> str:
    if field.default is PydanticUndefined or field.default is None or field.default in ((), {}):
        return ""
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    if isinstance(field.default, tuple):
        return f"`{','.join(field.default)}`"
    return f"`{field.default}`"


def table() -> str:
    rows = ["| variable | set by | default | meaning |", "|---|---|---|---|"]
    for field in Settings.model_fields.values():
        name = field.validation_alias
        set_by = (
            "⚙ the fleet"
            if fleet_variable(name) in INJECTED or name == "FORWARDED_ALLOW_IPS"
            else "Cloud Run"
            if name in PLATFORM
            else "you"
        )
        rows.append(f"| `{name}` | {set_by} | {default(field)} | {field.description} |")
    return "\n".join(rows) + "\n"


def test_the_guide_describes_every_variable_as_in_the_code():
    page = PAGE.read_text(encoding="utf-8")
    written = PART.sub(lambda match: match[1] + table() + match[2], page)
    assert table() in page, f"not in step; write {PAGE.name} anew with:\n{table()}"
    assert written == page


def test_the_settings_read_every_variable_that_the_fleet_sets():
    supported = {fleet_variable(str(field.validation_alias)) for field in Settings.model_fields.values()}
    # Cloud Run has checked the audience; its list is for servers that check a token again.
    assert set(INJECTED) - {AUDIENCE} <= supported


def test_the_table_of_clients_lists_the_clients_of_the_tests():
    assert table_of_clients.table() in PAGE.read_text(encoding="utf-8"), table_of_clients.table()
