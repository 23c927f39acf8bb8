"""A quick start: what the SDK's import makes that no request may ever need is made when it is needed."""

from collections.abc import Generator
from contextlib import contextmanager

from pydantic import BaseModel


@contextmanager
def models_built_on_demand() -> Generator[None]:
    """Within, a model's validator is built at its first use, not with its class.

    The SDK defines some 400 models (mcp 2.3: one set for each revision, one for all), a server uses a tenth of them.
    `defer_build` is pydantic's own word for it; set for the base class it is inherited by what is defined within.
    """
    before = BaseModel.model_config
    BaseModel.model_config = {**before, "defer_build": True}
    try:
        yield
    finally:
        BaseModel.model_config = before
