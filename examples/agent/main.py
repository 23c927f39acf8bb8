"""The HTTP service around an agent: `POST /ask` with `{"question": "…"}`, `GET /health`, and `GET /servers/{name}`.

It reads the environment, keeps connections and the trace of each question, and knows no framework: `agent.py` beside it
does. What comes from where:

- `PORT`: Cloud Run's container contract.
- `MCP_SERVERS`: the fleet writes it, from `clients.<name>.calls`.
- `MCP_CLIENT_ORIGINS`: origins of web pages that may ask, with commas between them; by default none but its own.
- `MODEL`: the model's name; `MCP_TIMEOUT`: seconds that a server may take, a cold start included.
"""

import contextlib
import logging
import os
import sys
from collections.abc import AsyncGenerator, Collection, Mapping

import pydantic
import uvicorn
from agent import MODEL, Agent
from pydantic import BaseModel, ConfigDict, Field
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcpfleet.errors import UsageError
from mcpfleet.reach import reach_route
from mcpfleet.same_origin import MAX_CONCURRENT_REQUESTS, SameOriginApp, parse_origins
from mcpfleet.service import CalledServer, HttpClients, connections, servers_of
from mcpfleet.tracing import traced
from mcpfleet_server import logs

log = logging.getLogger("agent")


class Question(BaseModel):
    """What `POST /ask` takes."""

    model_config = ConfigDict(extra="forbid")

    question: str = Field(min_length=1, max_length=20_000)


def build_app(
    agent: Agent, clients: Mapping[str, HttpClients] | None = None, origins: Collection[str] = ()
) -> Starlette:
    """The application around an agent; who verifies a deployment asks it whether it reaches the servers of *clients*.

    Pages of *origins* may ask it, besides its own.
    """

    async def ask(request: Request) -> Response:
        try:
            asked = Question.model_validate_json(await request.body())
        except pydantic.ValidationError as error:
            wrong = [f"{'.'.join(map(str, one['loc'])) or 'the body'}: {one['msg']}" for one in error.errors()]
            return JSONResponse({"error": "; ".join(wrong)}, 400)
        with traced(request.headers):  # what the agent does belongs to the question's trace, in the servers' logs, too
            try:
                answer = await agent.ask(asked.question)
            except Exception as error:  # a model or a server that fails is no reason for a traceback at the caller's
                log.exception("no answer")
                return JSONResponse({"error": str(error) or type(error).__name__}, 502)
            log.info("answered")
        return JSONResponse({"answer": answer})

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        yield
        await agent.aclose()

    return Starlette(
        routes=[Route("/ask", ask, methods=["POST"]), Route("/health", health), reach_route(clients or {})],
        lifespan=lifespan,
        middleware=[Middleware(SameOriginApp, origins=origins)],  # no web page of another asks in its user's name
    )


def http_clients(servers: Mapping[str, CalledServer], timeout: float) -> dict[str, HttpClients]:
    """HTTP clients for each server, over one pool of connections."""
    pool = connections(timeout)
    return {name: HttpClients(server, pool=pool, timeout=timeout) for name, server in servers.items()}


def main() -> int:
    """Read the environment and serve."""
    logs.install(project=os.environ.get("GOOGLE_CLOUD_PROJECT"))  # JSON, as Cloud Logging wants it
    try:
        servers = servers_of(os.environ.get("MCP_SERVERS", ""))
        origins = parse_origins(os.environ.get("MCP_CLIENT_ORIGINS", ""))
        timeout = float(os.environ.get("MCP_TIMEOUT", "60"))
    except UsageError as error:
        log.critical("%s", error)
        return 2
    except ValueError:
        log.critical("MCP_TIMEOUT: %r is not a number of seconds", os.environ["MCP_TIMEOUT"])
        return 2
    model = os.environ.get("MODEL", MODEL)
    if model == "scripted":
        from scripted import ScriptedModel  # for tests; it is no AI

        model = ScriptedModel()
    clients = http_clients(servers, timeout)
    agent = Agent(model, servers, clients, timeout)
    uvicorn.run(
        build_app(agent, clients, origins),
        host="0.0.0.0",  # noqa: S104  # Cloud Run's contract: not loopback
        port=int(os.environ.get("PORT", "8080")),
        log_config=None,
        access_log=False,
        limit_concurrency=MAX_CONCURRENT_REQUESTS,
        timeout_graceful_shutdown=8,  # seconds; Cloud Run kills the container after 10
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
