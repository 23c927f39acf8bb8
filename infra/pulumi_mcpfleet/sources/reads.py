"""Which of the variables that servers find their settings in a source reads, as far as its files say so.

A name that one server reads as a list another reads as a pattern or a path: so a server is given those that it is known
to read, and no others.
"""

import re
from typing import Final

from pulumi_mcpfleet.sources.layout import Layout

FASTMCP: Final = "FASTMCP_*"
"""All settings of FastMCP, the Python package."""

NAMED: Final = ("MCP_ALLOWED_HOSTS", "MCP_ALLOWED_ORIGINS", "MCP_BASE_URL")
"""Read in one sense by whoever reads them: exact hosts and origins, separated by commas, and a URL."""

_FASTMCP: Final = re.compile(r"\bfastmcp\b", re.IGNORECASE)
_MANIFESTS: Final = ("pyproject.toml", "requirements.txt", "setup.py", "setup.cfg", "fastmcp.json")


def variables_read(layout: Layout) -> frozenset[str]:
    """The names in `NAMED` that the code of a source has, and `FASTMCP` where it uses that."""
    code = layout.code
    python = [text for name, text in code.items() if name.endswith(".py")]
    manifests = [text for name, text in layout.texts.items() if name.rpartition("/")[2] in _MANIFESTS]
    fast = any(_FASTMCP.search(text) for text in (*manifests, *python))
    named = {name for name in NAMED if any(name in text for text in code.values())}
    return frozenset(named | ({FASTMCP} if fast else set()))
