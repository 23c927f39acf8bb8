"""A program: a server with sessions behind a front end that simulates the faults of a cloud.

The environment says how: PORT, AUDIENCE, LEDGER (a file that gets a line for each call that was carried out), COLD
(seconds that the first request waits, as for an instance), SLOW (seconds that each request is on its way here).
"""

import asyncio
import os
import time
from pathlib import Path

import uvicorn
from google.auth import jwt
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import SamplingMessage, TextContent, ToolAnnotations
from pydantic import BaseModel

PORT, AUDIENCE, LEDGER = int(os.environ["PORT"]), os.environ["AUDIENCE"], Path(os.environ["LEDGER"])
COLD, SLOW = float(os.environ.get("COLD", "0")), float(os.environ.get("SLOW", "0"))
REFUSED = [(b"content-type", b"text/html"), (b"www-authenticate", b'Bearer error="invalid_token"')]

server = MCPServer("ledger")


class Consent(BaseModel):
    agreed: bool


def note(line):
    with LEDGER.open("a") as ledger:
        ledger.write(line + "\n")


@server.tool()
async def pay(amount: int, seconds: float = 0) -> str:
    """Costs money: must not happen twice."""
    note(f"pay {amount}")
    await asyncio.sleep(seconds)
    return f"paid {amount}"


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
async def look(seconds: float = 0) -> str:
    """Only looks."""
    note("look")
    await asyncio.sleep(seconds)
    return "seen"


@server.tool()
async def ask_model(ctx: Context) -> str:
    """Ask the client's model."""
    question = SamplingMessage(role="user", content=TextContent(type="text", text="how much?"))
    answer = await ctx.session.create_message(messages=[question], max_tokens=5)
    return answer.content.text


@server.tool()
async def ask_person(ctx: Context) -> str:
    """Ask the client's user."""
    answer = await ctx.elicit("Pay?", Consent)
    return f"{answer.action} {answer.data.agreed}"


class FrontEnd:
    """Looks at a token's times and audience as Cloud Run does. Of signatures one is right; the local cloud verifies."""

    def __init__(self, app):
        self.app = app
        self.warm = asyncio.Event()
        self.starting = False

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            await asyncio.sleep(SLOW)
            if refused := self.refused(dict(scope["headers"])):
                await send({"type": "http.response.start", "status": refused, "headers": REFUSED})
                await send({"type": "http.response.body", "body": b"<html>%d" % refused})
                return
            await self.start()
        await self.app(scope, receive, send)

    def refused(self, headers):
        token = headers.get(b"x-serverless-authorization", b"").decode().removeprefix("Bearer ")
        if not token:
            return 403
        try:
            claims = jwt.decode(token, verify=False)
        except ValueError:
            return 401
        good = token.endswith(".c2ln") and claims["aud"] == AUDIENCE and claims["exp"] > time.time()
        return None if good else 401

    async def start(self):
        if not self.starting:
            self.starting = True
            await asyncio.sleep(COLD)
            self.warm.set()
        await self.warm.wait()


if __name__ == "__main__":
    app = FrontEnd(server.streamable_http_app())
    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning", timeout_graceful_shutdown=1)
