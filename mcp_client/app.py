"""The application: `POST /ask`, `GET /health`, `GET /servers/{name}`, and a page to try it by hand."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Collection
from typing import Any

import pydantic
from pydantic import BaseModel, ConfigDict, Field
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from mcp_client.calls import Fleet
from mcpfleet.reach import reach_route
from mcpfleet.same_origin import SameOriginApp
from mcpfleet.tracing import traced

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>mcpfleet client</title>
<style>body{font:16px system-ui;max-width:46rem;margin:2rem auto;padding:0 1rem}
textarea,pre{width:100%;box-sizing:border-box;font:14px ui-monospace,monospace}
pre{background:#f4f4f4;padding:1rem;overflow:auto}</style>
<h1>Ask the fleet</h1>
<p>Servers: NAMES. Without a tool the answer lists what each can do.</p>
<form><textarea rows="4" name="q" aria-label="question">{}</textarea><p><button>Ask</button></form>
<pre aria-live="polite">{"tool": "add", "arguments": {"a": 1, "b": 2}}</pre>
<script>
document.forms[0].onsubmit = async (event) => {
  event.preventDefault();
  const out = document.querySelector("pre");
  out.textContent = "…";
  const answer = await fetch("ask", {
    method: "POST", body: event.target.q.value, headers: {"content-type": "application/json"},
  });
  out.textContent = JSON.stringify(await answer.json(), null, 2);
};
</script></html>
"""


class Question(BaseModel):
    """What `POST /ask` takes."""

    model_config = ConfigDict(extra="forbid")

    tool: str | None = Field(None, description="the tool to call; without it, tools are listed")
    arguments: dict[str, Any] = Field(default={}, description="the tool's arguments")
    servers: list[str] | None = Field(None, description="which servers to ask; all by default")


def build_app(fleet: Fleet, origins: Collection[str] = ()) -> Starlette:
    """The application for these servers; pages of *origins* may ask it, besides its own."""

    async def ask(request: Request) -> Response:
        try:
            question = Question.model_validate_json(await request.body() or b"{}")
        except pydantic.ValidationError as error:
            wrong = [f"{'.'.join(map(str, one['loc'])) or 'the body'}: {one['msg']}" for one in error.errors()]
            return JSONResponse({"error": {"message": "; ".join(wrong)}}, 400)
        names = fleet.names if question.servers is None else question.servers
        if unknown := [name for name in names if name not in fleet.names]:
            text = f"servers: this client does not call {', '.join(unknown)}; it calls {', '.join(fleet.names)}"
            return JSONResponse({"error": {"message": text}}, 400)
        with traced(request.headers):
            if question.tool is None:
                answers = await fleet.tools(names)
            else:
                answers = await fleet.call(names, question.tool, question.arguments)
        # Something went well: 200. All failed: the gateway that this is says 502.
        return JSONResponse({"servers": answers}, 200 if any("error" not in one for one in answers.values()) else 502)

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def page(_request: Request) -> Response:
        names = ", ".join(fleet.names) or "none"
        return HTMLResponse(PAGE.replace("NAMES", json.dumps(names)[1:-1].replace("<", "&lt;")))

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        yield
        await fleet.aclose()

    routes = [
        Route("/", page, methods=["GET"]),
        Route("/ask", ask, methods=["POST"]),
        Route("/health", health, methods=["GET"]),
        reach_route(fleet.http),
    ]
    return Starlette(routes=routes, lifespan=lifespan, middleware=[Middleware(SameOriginApp, origins=origins)])
