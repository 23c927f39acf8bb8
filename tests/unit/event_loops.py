"""Event loops for programs that run under Pulumi's mocks."""

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor


@contextlib.contextmanager
def event_loops(workers: int) -> Iterator[None]:
    """An event loop for this thread and one for each of its *workers*, all closed at the end.

    Pulumi's mocks make a loop in each worker thread that has none, and never close it.
    """
    loops = [asyncio.new_event_loop()]

    def start_worker() -> None:
        loops.append(asyncio.new_event_loop())
        asyncio.set_event_loop(loops[-1])

    asyncio.set_event_loop(loops[0])
    loops[0].set_default_executor(ThreadPoolExecutor(max_workers=workers, initializer=start_worker))
    try:
        yield
    finally:
        loops[0].run_until_complete(loops[0].shutdown_default_executor())
        for loop in loops:
            loop.close()
        asyncio.set_event_loop(None)
