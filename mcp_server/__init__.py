"""The reference MCP server of mcpfleet: what a user starts from. Replace `app.py`, keep all the rest.

| module | says |
|---|---|
| `app.py` | the tools: the part that is yours |
| `hosting.py` | what hosting on Cloud Run asks of any MCP server: the edge, the drain, the runner |
| `allowlist.py` | which Host and Origin headers are accepted |
| `caller.py` | who called, from the token that Cloud Run has already verified |
| `logs.py` | one Cloud Logging JSON object per line |
| `settings.py` | the environment, read once |

Nothing here is built at import time. The package knows nothing of Pulumi or of the fleet: it gets all it
needs from the environment (`settings.py` is the contract).
"""

__version__ = "0.1.0"
