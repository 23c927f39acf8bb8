"""Long-running operations, as every Google API that this project calls reports them.

An operation is a document `{name, metadata, done, error | response}` (google.longrunning). Its work runs as a task
of this process; when the process is killed, the owner of the work starts it again under the same name (`resume`),
so that a client that polls sees one operation, once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import uuid4

from mcpfleet_local_cloud.rest.errors import GoogleError, not_found
from mcpfleet_local_cloud.state.store import Document, Store

KIND: Final = "operation"
Work = Callable[[], Awaitable[Document]]

_log = logging.getLogger(__name__)


class Operations:
    """Starts, keeps and answers for long-running operations."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._running: dict[str, asyncio.Task[None]] = {}

    def done(self, parent: str, response: Document, metadata: Document | None = None) -> Document:
        """An operation that was finished when it was asked for; *parent* as in `projects/p/locations/l`, or empty."""
        operation: Document = {"name": _name(parent), "metadata": metadata or {}, "done": True, "response": response}
        self._store.put(KIND, operation["name"], operation)
        return operation

    def start(self, parent: str, work: Work, metadata: Document | None = None) -> Document:
        """Begin *work*; its result becomes the operation's `response`, its `GoogleError` the `error`."""
        operation: Document = {"name": _name(parent), "metadata": metadata or {}, "done": False}
        self._store.put(KIND, operation["name"], operation)
        self._run(operation, work)
        return operation

    def resume(self, name: str, work: Work) -> None:
        """Take up an operation that a killed process left unfinished; nothing happens if it is done or unknown."""
        operation = self._store.get(KIND, name)
        if operation is not None and not operation["done"] and name not in self._running:
            self._run(operation, work)

    def get(self, name: str) -> Document:
        """The operation as it stands.

        Raises:
            GoogleError: NOT_FOUND.
        """
        operation = self._store.get(KIND, name)
        if operation is None:
            raise not_found(name)
        return operation

    def list(self, parent: str) -> list[Document]:
        """Every operation below *parent*, by name."""
        return [operation for _, operation in self._store.list(KIND, f"{parent}/operations/")]

    async def wait(self, name: str, seconds: float) -> Document:
        """The operation once it is done, or as it stands after *seconds*."""
        task = self._running.get(name)
        if task is not None:
            await asyncio.wait([task], timeout=seconds)
        return self.get(name)

    async def close(self) -> None:
        """Stop what runs, without finishing it: it is resumed when the cloud starts again."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _run(self, operation: Document, work: Work) -> None:
        name: str = operation["name"]
        task = asyncio.create_task(self._finish(operation, work), name=name)
        self._running[name] = task
        task.add_done_callback(lambda _: self._running.pop(name, None))

    async def _finish(self, operation: Document, work: Work) -> None:
        outcome: dict[str, Any]
        try:
            outcome = {"response": await work()}
        except GoogleError as refusal:
            outcome = {"error": refusal.rpc_status()}
        except Exception as broken:
            _log.exception("operation %s broke", operation["name"])
            internal = GoogleError(
                "INTERNAL", f"The local cloud failed ({type(broken).__name__}: {broken}); see its log."
            )
            outcome = {"error": internal.rpc_status()}
        self._store.put(KIND, operation["name"], {**operation, "done": True, **outcome})


def _name(parent: str) -> str:
    return f"{parent}/operations/{uuid4()}".removeprefix("/")
