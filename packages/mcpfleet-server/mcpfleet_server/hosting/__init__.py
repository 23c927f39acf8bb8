"""Hosts any MCP server on Cloud Run: `serve(server)` does everything that hosting requires.

    from mcpfleet_server.hosting import serve

    def build(settings):
        server = MCPServer("weather", version="1.0.0")      # or a FastMCP, or the SDK's low-level Server
        ...
        return server

    if __name__ == "__main__":
        sys.exit(serve(build))

| module | contents |
|---|---|
| `application.py` | the ASGI application, made of the parts below |
| `edge.py` | health, Host and Origin, CORS (`mcpfleet_server.cors`), 405, `/mcp/` |
| `endpoint.py`, `call.py` | the fast path from one POST to its response, for every protocol version |
| `middleware.py` | limits and one log entry for each tool call |
| `authentication.py` | the verified caller, for tools and the SDK; `access: iap` |
| `oauth.py` | the resource server of `access: oauth` |
| `drain.py`, `runner.py` | graceful shutdown; processes |
| `telemetry.py` | OpenTelemetry, if `MCP_OTEL` is set |
| `adapt.py` | the supported kinds of servers |

Not included: HTTP/2 and TLS, which Cloud Run's front end terminates.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcpfleet_server.hosting.application import Application, build_app
    from mcpfleet_server.hosting.runner import serve

__all__ = ["Application", "build_app", "serve"]


def __getattr__(name: str) -> Any:
    # Importing the SDK takes most of the startup time, so `serve` checks the environment before.
    if name == "serve":
        from mcpfleet_server.hosting.runner import serve

        return serve
    if name in ("Application", "build_app"):
        from mcpfleet_server.hosting import application

        return getattr(application, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
