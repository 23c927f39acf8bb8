"""The web application: `POST /ask`, `GET /health`, `GET /servers/{name}`, and a page to try it in a browser."""

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
<p>Servers: NAMES. Without a tool, the answer lists the tools of each server.</p>
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
    """The body of `POST /ask`."""

    model_config = ConfigDict(extra="forbid")

    tool: str | None = Field(None, description="the tool to call; without it, the answer lists all tools")
    arguments: dict[str, Any] = Field(default={}, description="the tool's arguments")
    servers: list[str] | None = Field(None, description="the servers to call; by default all")


def build_app(fleet: Fleet, origins: Collection[str] = ()) -> Starlette:
    """Build the application for *fleet*; web pages of *origins*, and its own page, may send questions."""

    async def ask(request: Request) -> Response:
        try:
            question = Question.model_validate_json(await request.body() or b"{}")
        except pydantic.ValidationError as error:
            problems = [
                f"{'.'.join(map(str, detail['loc'])) or 'the body'}: {detail['msg']}" for detail in error.errors()
            ]
            return JSONResponse({"error": {"message": "; ".join(problems)}}, 400)
        names = fleet.names if question.servers is None else question.servers
        if unknown := [name for name in names if name not in fleet.names]:
            text = f"servers: this client does not call {', '.join(unknown)}; it calls {', '.join(fleet.names)}"
            return JSONResponse({"error": {"message": text}}, 400)
        with traced(request.headers):
            if question.tool is None:
                results = await fleet.list_tools(names)
            else:
                results = await fleet.call_tool(names, question.tool, question.arguments)
        # 200 if any server succeeded; 502 (bad gateway) if all failed.
        return JSONResponse(
            {"servers": results}, 200 if any("error" not in detail for detail in results.values()) else 502
        )

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
