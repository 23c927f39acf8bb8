"""Long-running operations, as every Google API that this project calls reports them.

An operation is a document `{name, metadata, done, error | response}` (google.longrunning). Its work runs as a task
of this process; when the process is killed, the owner of the work starts it again under the same name (`resume`),
so that a client that polls sees only one operation.

Metadata and response are complete documents, environment values included. So a finished operation is kept only while
a client may still poll it, for `RETENTION_SECONDS`, and at most `MAX_FINISHED` of them are kept. Google keeps them
longer.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import uuid4

from mcpfleet_local_cloud.rest.errors import GoogleError, not_found
from mcpfleet_local_cloud.state.store import Document, Store

KIND: Final = "operation"
RETENTION_SECONDS: Final = 3600
MAX_FINISHED: Final = 1000
_EXPIRY_INTERVAL_SECONDS: Final = 600
_FINISHED_AT: Final = "finished"
"""The field with the time of the end, in seconds since the epoch; only in the record, never in a response."""
Work = Callable[[], Awaitable[Document]]

_log = logging.getLogger(__name__)


class Operations:
    """Starts, stores and returns long-running operations.

    Args:
        store: stores the operations.
        clock: seconds since the epoch.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._running: dict[str, asyncio.Task[None]] = {}
        done = [(record.get(_FINISHED_AT, 0.0), name) for name, record in store.list(KIND) if record["done"]]
        self._finished = deque[tuple[float, str]](sorted(done))
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Start to delete old finished operations periodically, also while no request arrives."""
        self._expire()
        self._timer = asyncio.get_running_loop().call_later(_EXPIRY_INTERVAL_SECONDS, self.open)

    def add_finished(self, parent: str, response: Document, metadata: Document | None = None) -> Document:
        """Store and return an operation that is finished already; *parent* is `projects/p/locations/l`, or empty."""
        operation: Document = {
            "name": _new_name(parent),
            "metadata": metadata or {},
            "done": True,
            "response": response,
        }
        self._save_finished(operation)
        return operation

    def start(self, parent: str, work: Work, metadata: Document | None = None) -> Document:
        """Start *work* as an operation; its result becomes the `response`, its `GoogleError` the `error`."""
        operation: Document = {"name": _new_name(parent), "metadata": metadata or {}, "done": False}
        self._store.put(KIND, operation["name"], operation)
        self._run(operation, work)
        return operation

    def resume(self, name: str, work: Work) -> None:
        """Continue an operation that a killed process left unfinished; does nothing if it is done or unknown."""
        operation = self._store.get(KIND, name)
        if operation is not None and not operation["done"] and name not in self._running:
            self._run(operation, work)

    def find(self, name: str) -> Document | None:
        """Return the current state of the operation; None if it does not exist, or no longer."""
        self._expire()
        operation = self._store.get(KIND, name)
        return None if operation is None else _public_fields(operation)

    def get(self, name: str) -> Document:
        """Return the current state of the operation.

        Raises:
            GoogleError: NOT_FOUND.
        """
        operation = self.find(name)
        if operation is None:
            raise not_found(name)
        return operation

    def list(self, parent: str) -> list[Document]:
        """List the operations below *parent*, sorted by name."""
        self._expire()
        return [_public_fields(operation) for _, operation in self._store.list(KIND, f"{parent}/operations/")]

    def names(self) -> "list[str]":
        """List the names of all stored operations."""
        self._expire()
        return [name for name, _ in self._store.list(KIND)]

    def forget_finished(self) -> None:
        """Delete every operation that is done."""
        self._expire(maximum=0)

    async def wait(self, name: str, seconds: float) -> Document:
        """Wait until the operation is done, at most *seconds*, and return its state then."""
        task = self._running.get(name)
        if task is not None:
            await asyncio.wait([task], timeout=seconds)
        return self.get(name)

    async def close(self) -> None:
        """Cancel the running work without finishing its operations: they are resumed when the cloud starts again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
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
        except Exception as error:
            _log.exception("operation %s failed", operation["name"])
            internal = GoogleError(
                "INTERNAL", f"The local cloud failed ({type(error).__name__}: {error}); see its log."
            )
            outcome = {"error": internal.rpc_status()}
        self._save_finished({**operation, "done": True, **outcome})

    def _save_finished(self, operation: Document) -> None:
        """Store an operation that is done."""
        now = self._clock()
        self._store.put(KIND, operation["name"], {**operation, _FINISHED_AT: now})
        self._finished.append((now, operation["name"]))
        self._expire()

    def _expire(self, maximum: int = MAX_FINISHED) -> None:
        limit = self._clock() - RETENTION_SECONDS
        while self._finished and (len(self._finished) > maximum or self._finished[0][0] <= limit):
            self._store.delete(KIND, self._finished.popleft()[1])


def _public_fields(operation: Document) -> Document:
    return {field: value for field, value in operation.items() if field != _FINISHED_AT}


def _new_name(parent: str) -> str:
    return f"{parent}/operations/{uuid4()}".removeprefix("/")
