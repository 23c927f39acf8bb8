"""Finds the environment variables with settings that a source reads, as far as its files show.

One server reads a variable as a list, another reads the same name as a pattern or a path. So a server gets only those
variables that it is known to read.
"""

import re
from typing import Final

from pulumi_mcpfleet.sources.layout import Layout

FASTMCP_SETTINGS: Final = "FASTMCP_*"
"""All settings of FastMCP, the Python package."""

KNOWN_VARIABLES: Final = ("MCP_ALLOWED_HOSTS", "MCP_ALLOWED_ORIGINS", "MCP_BASE_URL")
"""Variables that have the same meaning in all servers: exact hosts and origins, separated by commas, and a URL."""

_FASTMCP: Final = re.compile(r"\bfastmcp\b", re.IGNORECASE)
_MANIFESTS: Final = ("pyproject.toml", "requirements.txt", "setup.py", "setup.cfg", "fastmcp.json")


def find_variables(layout: Layout) -> frozenset[str]:
    """Return the names of `KNOWN_VARIABLES` in the code of a source, and `FASTMCP_SETTINGS` if it uses FastMCP."""
    code = layout.code
    python = [text for name, text in code.items() if name.endswith(".py")]
    manifests = [text for name, text in layout.texts.items() if name.rpartition("/")[2] in _MANIFESTS]
    uses_fastmcp = any(_FASTMCP.search(text) for text in (*manifests, *python))
    known = {name for name in KNOWN_VARIABLES if any(name in text for text in code.values())}
    return frozenset(known | ({FASTMCP_SETTINGS} if uses_fastmcp else set()))
