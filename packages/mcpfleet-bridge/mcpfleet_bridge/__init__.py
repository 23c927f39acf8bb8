"""The stdio bridge of mcpfleet: puts one MCP server that speaks stdio behind streamable HTTP.

| module | says |
|---|---|
| `settings.py` | the environment, read once |
| `messages.py`, `lines.py` | JSON-RPC as it passes through: what is read of it, and what is left as it came |
| `process.py`, `orphans.py` | one process: its group, its limits, its stderr, its end |
| `child.py` | one MCP server in such a process, and the calls that are under way in it |
| `pool.py` | children that all clients share, restarted when they end |
| `leases.py` | children for one call at a time, for clients that the server may ask something |
| `sessions.py` | a child for each session of a stateful client |
| `headers.py` | what headers of 2026-07-28 repeat of the body |
| `legacy.py`, `modern.py`, `listening.py`, `sse.py` | the protocol's eras, each in its own words |
| `edge.py`, `replies.py` | HTTP: what may come in, what goes out |
| `hosting.py` | the application, the drain, the runner |

Parameters and results are never decoded as a whole: what the bridge need not read passes as the bytes it
came in. A request that is not served is refused where that is known (`messages.Refused`), and answered once, at
the edge. Who called, the logs, the allow-list and the bounds of connections are `mcpfleet_server`'s. Nothing here
knows Pulumi or the fleet (`settings.py` is the contract).
"""

__version__ = "0.1.0"
