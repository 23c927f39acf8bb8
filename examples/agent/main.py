"""The HTTP service around an agent: `POST /ask` with `{"question": "…"}`, `GET /health`, and `GET /servers/{name}`.

It reads the environment, manages connections and the trace of each question, and is the same for every framework;
`agent.py` has the agent. The environment variables:

- `PORT`: the port to listen on, from Cloud Run.
- `MCP_SERVERS`: the servers, which the fleet sets from `clients.<name>.calls`.
- `MCP_CLIENT_ORIGINS`: origins of other web pages that may send questions, separated by commas.
- `MODEL`: the model's name.
- `MCP_TIMEOUT`: the maximum seconds for a call of a server, including a cold start.
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
    """The body of `POST /ask`."""

    model_config = ConfigDict(extra="forbid")

    question: str = Field(min_length=1, max_length=20_000)


def build_app(
    agent: Agent, clients: Mapping[str, HttpClients] | None = None, origins: Collection[str] = ()
) -> Starlette:
    """Build the application around an agent.

    `GET /servers/{name}` checks whether it reaches a server of *clients*, which `verify` uses. Web pages of *origins*
    may send questions.
    """

    async def ask(request: Request) -> Response:
        try:
            body = Question.model_validate_json(await request.body())
        except pydantic.ValidationError as error:
            problems = [
                f"{'.'.join(map(str, detail['loc'])) or 'the body'}: {detail['msg']}" for detail in error.errors()
            ]
            return JSONResponse({"error": "; ".join(problems)}, 400)
        with traced(request.headers):  # the agent's calls belong to the question's trace
            try:
                answer = await agent.ask(body.question)
            except Exception as error:  # the caller gets an error instead of a traceback
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
        middleware=[Middleware(SameOriginApp, origins=origins)],  # web pages of other sites can't send questions
    )


def http_clients(servers: Mapping[str, CalledServer], timeout: float) -> dict[str, HttpClients]:
    """Factories of HTTP clients for each server, with one connection pool."""
    pool = connections(timeout)
    return {name: HttpClients(server, pool=pool, timeout=timeout) for name, server in servers.items()}


def main() -> int:
    """Read the environment and serve."""
    logs.install(project=os.environ.get("GOOGLE_CLOUD_PROJECT"))  # JSON for Cloud Logging
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
        from scripted import ScriptedModel  # for tests, without AI

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
