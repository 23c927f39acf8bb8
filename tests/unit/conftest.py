"""Keep each unit test from changing the logging of those that run after it in the same process."""

import logging
from collections.abc import Iterator

import pytest

UVICORN_LOGGERS = tuple(
    logging.getLogger(name) for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
)


@pytest.fixture(autouse=True)
def uvicorn_loggers() -> Iterator[None]:
    """Restore uvicorn's loggers: each `uvicorn.Config` sets their levels and handlers for the whole process."""
    before = [(logger, logger.level, logger.handlers[:], logger.filters[:]) for logger in UVICORN_LOGGERS]
    yield
    for logger, level, handlers, filters in before:
        logger.setLevel(level)
        logger.handlers[:], logger.filters[:] = handlers, filters
