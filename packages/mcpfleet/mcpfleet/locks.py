"""Reads the contracts of deployed servers, and keeps their locks in `tools/SERVER.json`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from pathlib import Path
from typing import Final

import httpx2

from mcpfleet.bounds import check_seconds, max_answer_bytes
from mcpfleet.contract import Contract, ContractError, Lock, parse_lock, render_lock
from mcpfleet.errors import McpfleetError, UsageError
from mcpfleet.grammar import is_name
from mcpfleet.inert import error_line, inert, innermost_error
from mcpfleet.server_session import explain_errors, find_caller, http_client, open_session, read_contract
from mcpfleet.stack import DeployedServer
from mcpfleet.system import decode_text
from mcpfleet.token_sources import TokenSource

FOLDER: Final = "tools"


def lock_file(folder: Path, server: str) -> Path:
    """The file of a server's lock.

    Raises:
        UsageError: The name is not a server's name in a fleet, so it cannot be a file's name.
    """
    if not is_name(server):
        raise UsageError(f"{inert(server, 80)} is not a server's name in a fleet. Lock a server of a stack.")
    return folder / FOLDER / f"{server}.json"


def read_lock(folder: Path, server: str) -> Lock | None:
    """Read a server's lock; None if there is none.

    Raises:
        ContractError: The file cannot be read, or is not this server's lock.
    """
    file = lock_file(folder, server)
    limit = 2 * max_answer_bytes()
    try:
        with file.open("rb") as opened:
            content = opened.read(limit + 1)
        if len(content) > limit:
            raise ContractError(f"{file} is larger than {limit} bytes, so it is not a lock.")
        text = decode_text(content)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ContractError(f"Cannot read {file}: {reason}.") from None
    return parse_lock(text, str(file), server)


def require_lock(folder: Path, server: str) -> Lock:
    """Read a server's lock.

    Raises:
        ContractError: There is none, or it is invalid.
    """
    lock = read_lock(folder, server)
    if lock is None:
        file = lock_file(folder, server)
        raise ContractError(f"{file} does not exist. Write it with `mcpfleet tools lock {server}`, and commit it.")
    return lock


def write_lock(folder: Path, server: str, lock: Lock) -> Path:
    """Write a server's lock, whole or not at all; a link in its place is replaced and not followed.

    Raises:
        McpfleetError: The file cannot be written.
    """
    file = lock_file(folder, server)
    temporary: str | None = None
    try:
        file.parent.mkdir(exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".json", dir=file.parent)
        with os.fdopen(handle, "w", encoding="ascii", newline="\n") as opened:
            opened.write(render_lock(server, lock))
        Path(temporary).chmod(0o644)
        Path(temporary).replace(file)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        raise McpfleetError(f"Cannot write {file}: {error.strerror}.") from None
    return file


async def fetch_contract(
    server: DeployedServer, source: TokenSource | None, transport: httpx2.AsyncBaseTransport | None = None
) -> Contract:
    """Read what a deployed server lists.

    Args:
        server: The server.
        source: The identity to call as; None if the server needs no ID token.
        transport: The HTTP transport; the network by default.

    Raises:
        McpfleetError: The server could not be read; the message names it.
    """
    caller = await find_caller(server, source)
    if isinstance(caller, str):
        raise McpfleetError(f"The tools of {server.name} cannot be listed: {caller}.")
    auth = caller[1]
    if auth is not None:
        await auth.tokens.aget()  # reports a missing login
    seconds, errors = check_seconds(), list[httpx2.Response]()
    http = http_client(server.target, auth, seconds, errors=errors, transport=transport)
    mode = "legacy" if server.is_sse_only else "auto"
    try:
        async with asyncio.timeout(seconds), open_session(server, http, mode) as session:
            return await read_contract(session)
    except TimeoutError:
        reason = f"it did not end within {seconds:g} s"
    except Exception as error:  # any error of the request
        cause = innermost_error(error)
        if isinstance(cause, ContractError):
            raise ContractError(f"{server.name}: {cause}") from None
        reason = explain_errors(server, auth, errors) or f"{type(cause).__name__}: {error_line(cause)}"
    raise McpfleetError(f"The tools of {server.name} could not be listed: {reason.rstrip('.')}.")
