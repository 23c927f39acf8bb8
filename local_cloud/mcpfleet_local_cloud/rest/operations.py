"""Long-running operations, as every Google API that this project calls reports them.

An operation is a document `{name, metadata, done, error | response}` (google.longrunning). Its work runs as a task
of this process; when the process is killed, the owner of the work starts it again under the same name (`resume`),
so that a client that polls sees one operation, once.

Metadata and response are whole documents, environment values included. So a finished operation is kept for as long as
a client may still ask for it, `KEPT_SECONDS`, and no more than `KEPT` of them. Google keeps its own for longer.
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
KEPT_SECONDS: Final = 3600
KEPT: Final = 1000
_LOOK_SECONDS: Final = 600
_FINISHED: Final = "finished"
"""When it finished, in seconds since the epoch; in the record alone, never in an answer."""
Work = Callable[[], Awaitable[Document]]

_log = logging.getLogger(__name__)


class Operations:
    """Starts, keeps and answers for long-running operations.

    Args:
        store: where they are kept.
        clock: seconds since the epoch.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._running: dict[str, asyncio.Task[None]] = {}
        done = [(record.get(_FINISHED, 0.0), name) for name, record in store.list(KIND) if record["done"]]
        self._finished = deque[tuple[float, str]](sorted(done))
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Let go of finished operations in time from now on, also while nobody asks for anything."""
        self._expire()
        self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self.open)

    def done(self, parent: str, response: Document, metadata: Document | None = None) -> Document:
        """An operation that was finished when it was asked for; *parent* as in `projects/p/locations/l`, or empty."""
        operation: Document = {"name": _name(parent), "metadata": metadata or {}, "done": True, "response": response}
        self._keep(operation)
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

    def find(self, name: str) -> Document | None:
        """The operation as it stands; None where there is none, or none any more."""
        self._expire()
        operation = self._store.get(KIND, name)
        return None if operation is None else _shown(operation)

    def get(self, name: str) -> Document:
        """The operation as it stands.

        Raises:
            GoogleError: NOT_FOUND.
        """
        operation = self.find(name)
        if operation is None:
            raise not_found(name)
        return operation

    def list(self, parent: str) -> list[Document]:
        """Every operation below *parent*, by name."""
        self._expire()
        return [_shown(operation) for _, operation in self._store.list(KIND, f"{parent}/operations/")]

    def names(self) -> "list[str]":
        """The name of every operation that is kept."""
        self._expire()
        return [name for name, _ in self._store.list(KIND)]

    def forget_finished(self) -> None:
        """Forget every operation that is done."""
        self._expire(kept=0)

    async def wait(self, name: str, seconds: float) -> Document:
        """The operation once it is done, or as it stands after *seconds*."""
        task = self._running.get(name)
        if task is not None:
            await asyncio.wait([task], timeout=seconds)
        return self.get(name)

    async def close(self) -> None:
        """Stop what runs, without finishing it: it is resumed when the cloud starts again."""
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
        except Exception as broken:
            _log.exception("operation %s broke", operation["name"])
            internal = GoogleError(
                "INTERNAL", f"The local cloud failed ({type(broken).__name__}: {broken}); see its log."
            )
            outcome = {"error": internal.rpc_status()}
        self._keep({**operation, "done": True, **outcome})

    def _keep(self, operation: Document) -> None:
        """Write an operation that is done."""
        now = self._clock()
        self._store.put(KIND, operation["name"], {**operation, _FINISHED: now})
        self._finished.append((now, operation["name"]))
        self._expire()

    def _expire(self, kept: int = KEPT) -> None:
        limit = self._clock() - KEPT_SECONDS
        while self._finished and (len(self._finished) > kept or self._finished[0][0] <= limit):
            self._store.delete(KIND, self._finished.popleft()[1])


def _shown(operation: Document) -> Document:
    return {field: value for field, value in operation.items() if field != _FINISHED}


def _name(parent: str) -> str:
    return f"{parent}/operations/{uuid4()}".removeprefix("/")
