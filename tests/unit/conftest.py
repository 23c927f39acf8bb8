"""Keep other tests of the same process from changing the logging of a unit test."""

import logging

import pytest

UVICORN_LOGGERS = tuple(
    logging.getLogger(name) for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
)


@pytest.fixture(autouse=True)
def uvicorn_loggers() -> None:
    """Reset uvicorn's loggers: each `uvicorn.Config` configures them for the whole process."""
    for logger in UVICORN_LOGGERS:
        logger.setLevel(logging.NOTSET)
        logger.handlers.clear()
        logger.filters.clear()
        logger.propagate = True
