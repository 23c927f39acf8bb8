"""What hosting on Cloud Run asks of an MCP server, for any server: `serve(server)` is the whole of it.

    from mcpfleet_server.hosting import serve

    def build(settings):
        server = MCPServer("weather", version="1.0.0")      # or a FastMCP, or the SDK's low-level Server
        ...
        return server

    if __name__ == "__main__":
        sys.exit(serve(build))

| module | says |
|---|---|
| `application.py` | how the parts below become one ASGI application |
| `edge.py` | health, Host and Origin, CORS (`mcpfleet_server.cors`), 405, `/mcp/` |
| `exchange.py`, `call.py` | the fast way from one POST to its answer, for both eras |
| `guard.py` | limits and one log line for each tool call |
| `oauth.py` | the resource server of `access: oauth` |
| `drain.py`, `runner.py` | SIGTERM; processes |
| `telemetry.py` | OpenTelemetry, on request |
| `adapt.py` | which kinds of servers there are |

Not here: HTTP/2 (Cloud Run's front end speaks it outside), TLS (it ends there).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcpfleet_server.hosting.application import Application, build_app
    from mcpfleet_server.hosting.runner import serve

__all__ = ["Application", "build_app", "serve"]


def __getattr__(name: str) -> Any:
    # The SDK's import takes most of a start: `serve` reads and checks the environment before it.
    if name == "serve":
        from mcpfleet_server.hosting.runner import serve

        return serve
    if name in ("Application", "build_app"):
        from mcpfleet_server.hosting import application

        return getattr(application, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
