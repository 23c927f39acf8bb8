"""One process for each CPU: forked after everything was built, accepting from one socket."""

import logging
import os
import signal
from collections.abc import Callable
from types import FrameType

logger = logging.getLogger(__name__)


def supervise(count: int, run: Callable[[], int]) -> int:
    """Run *run* in *count* processes until all have ended.

    SIGTERM and SIGINT go to each of them. If one ends by itself, the others are asked to end too and the exit code
    says so: Cloud Run then starts a new instance, which is cleaner than a process mended half.

    Returns:
        0 if all ended in order, else the first other exit code.
    """
    children: set[int] = set()
    asked = False

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        for child in children:
            os.kill(child, signum)

    for _ in range(count):
        child = os.fork()
        if child == 0:
            # Flushed and ended here: what the parent has registered for its own end is not ours.
            code = 1
            try:
                code = run()
            finally:
                logging.shutdown()
                os._exit(code)
        children.add(child)
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, ask)
    logger.info("%d processes serve", count)
    worst = 0
    while children:
        child, status = os.wait()
        children.discard(child)
        code = os.waitstatus_to_exitcode(status)
        if code != 0 or not asked:
            worst = worst or code or 1
            if not asked:
                logger.error("A serving process ended by itself (%d); the others are asked to end", code)
                ask(signal.SIGTERM, None)
    return abs(worst)
