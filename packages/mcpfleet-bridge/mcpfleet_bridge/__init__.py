"""The stdio bridge: serves one MCP server that speaks stdio over streamable HTTP.

| module | contents |
|---|---|
| `settings.py` | the environment |
| `messages.py`, `lines.py` | JSON-RPC messages, of which the bridge reads some parts and passes on the rest |
| `process.py`, `orphans.py` | one process: its group, its limits, its stderr, its exit |
| `child.py` | one MCP server in such a process, and its calls in progress |
| `pool.py` | children that all clients share, restarted when they exit |
| `leases.py` | children for one call at a time, for clients that the server may send requests to |
| `sessions.py` | a child for each session of a stateful client |
| `headers.py` | the headers of 2026-07-28 that repeat parts of the body |
| `legacy.py`, `modern.py`, `subscriptions.py`, `sse.py` | the protocol versions and transports |
| `edge.py`, `exchange.py` | HTTP: checks and routing of requests; responses |
| `hosting.py` | the application, the drain, the runner |

The bridge never decodes parameters and results completely: it passes on the bytes that it does not need to read.
Code that can't serve a request raises `messages.RefusedError`, and `edge.py` sends the response. Callers, logs, the
allow-list and the limits of connections come from `mcpfleet_server`. The bridge does not know Pulumi or the fleet;
`settings.py` is the contract with them.
"""

__version__ = "0.1.0"
