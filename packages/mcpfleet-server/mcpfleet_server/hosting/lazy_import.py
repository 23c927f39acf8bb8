"""A quick and small start: what the SDK's import makes, and no request may ever need, is made when it is needed.

What it is about (mcp 2.3, Python 3.13; the figures are in docs/benchmarks.md):

- The SDK defines some 490 models (one set for each revision, one for all), of which a server uses a tenth.
- It builds 22 type adapters, of unions of those models: what a model's delay spares would be built for them.
- It imports its client, with an HTTP client; a server has a use for them only if its tools call somebody.
- It loads a library of ciphers, with its own copy of OpenSSL, for the state that a client carries between the rounds
  of one call, which most servers never have.

Python itself will have a word for the last two (PEP 810, `lazy import`, Python 3.15). A name that is missing in the
list below, because a later SDK has it elsewhere, costs memory and no more.
"""

import importlib
import os
import sys
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter

if TYPE_CHECKING:
    from mcp.server.request_state import RequestStateCodec

_STATE: Final = "mcp.server.request_state"

_LATER: Final[Mapping[str, str]] = {
    "cryptography.exceptions": _STATE,
    "cryptography.hazmat.primitives.ciphers.aead": _STATE,
    "cryptography.hazmat.primitives.hashes": _STATE,
    "cryptography.hazmat.primitives.kdf.hkdf": _STATE,
    "httpx2": "mcp.server.mcpserver.resources.types",
    "mcp.client._input_required": "mcp",
    "mcp.client.client": "mcp",
    "mcp.client.session": "mcp",
    "mcp.client.session_group": "mcp",
    "mcp.client.stdio": "mcp",
}
"""Modules that are imported with the first use, and the module of the SDK that imports them."""


def import_the_sdk() -> None:
    """Import the SDK's server; does nothing if the SDK has been imported already, even in part."""
    if "mcp" in sys.modules or "mcp_types" in sys.modules:
        return
    with ExitStack() as quick:
        quick.enter_context(models_built_on_demand())
        quick.enter_context(_adapters_built_on_demand())
        quick.enter_context(_stand_ins())
        importlib.import_module("mcp.server.mcpserver")
    _name_later(sys.modules["mcp"])


@contextmanager
def models_built_on_demand() -> Generator[None]:
    """Within, a model's validator is built at its first use, not with its class.

    `defer_build` is pydantic's own word for it; set for the base class it is inherited by what is defined within.
    """
    before = BaseModel.model_config
    BaseModel.model_config = {**before, "defer_build": True}
    try:
        yield
    finally:
        BaseModel.model_config = before


@contextmanager
def _adapters_built_on_demand() -> Generator[None]:
    """The same for type adapters.

    Not for a user's: what can't be built is to be told where it is named, and a name in a text would be looked up where
    the adapter is used first. That all of the SDK's can be built, a test shows.
    """
    adapter: Any = TypeAdapter
    original = adapter.__init__

    def deferred(self: Any, *of: Any, config: ConfigDict | None = None, **more: Any) -> None:
        try:
            original(self, *of, config={**(config or {}), "defer_build": True}, **more)
        except PydanticUserError:
            original(self, *of, config=config, **more)  # the type has a configuration of its own

    adapter.__init__ = deferred
    try:
        yield
    finally:
        adapter.__init__ = original


@contextmanager
def _stand_ins() -> Generator[None]:
    """Within, those modules are not imported, and who imports from them gets stand-ins."""
    stand_ins = {name: _Module(name) for name in _LATER if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, one in stand_ins.items():
            one.importing = False
            if sys.modules.get(name) is one:
                del sys.modules[name]


class _Module(ModuleType):
    """Stands for a module: gives stand-ins while the SDK is imported, after that what the module itself has."""

    importing = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        later = _Later(self.__name__, name)
        return later if self.importing else later.itself()


class _Later:
    """Stands for a class or a function until it is first called."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def itself(self) -> Any:
        """What this stands for."""
        return getattr(importlib.import_module(self._module), self._name)

    def __call__(self, *args: Any, **more: Any) -> Any:
        # All names of the importing module at once: `except` wants a class, and comes after some other name's call.
        members = vars(sys.modules[_LATER[self._module]])
        for name, one in members.items():
            if isinstance(one, _Later):
                members[name] = one.itself()
        return self.itself()(*args, **more)


def _name_later(package: ModuleType) -> None:
    """Let a package find the names itself that stand-ins hold in it, when they are asked for."""
    members = vars(package)
    later = {name: one for name, one in members.items() if isinstance(one, _Later)}

    def find(name: str) -> Any:
        if name not in later:
            raise AttributeError(f"module {package.__name__!r} has no attribute {name!r}")
        members[name] = later[name].itself()
        return members[name]

    for name in later:
        del members[name]
    members["__getattr__"] = find


class CodecOnDemand:
    """The SDK's own codec of the state that clients carry, made with the first state there is."""

    def __init__(self, key: bytes | str) -> None:
        """Keep a key of at least 32 bytes."""
        self._key = key
        self._codec: RequestStateCodec | None = None

    def _made(self) -> "RequestStateCodec":
        if self._codec is None:
            from mcp.server.request_state import AESGCMRequestStateCodec

            self._codec = AESGCMRequestStateCodec([self._key])
        return self._codec

    def seal(self, payload: bytes) -> str:
        """Encrypt a state."""
        return self._made().seal(payload)

    def unseal(self, token: str) -> bytes:
        """Decrypt it.

        Raises:
            InvalidRequestState: It is not one of ours.
        """
        return self._made().unseal(token)


@contextmanager
def keys_used_on_demand() -> Generator[None]:
    """Within, the key that a server makes up for itself is a `CodecOnDemand`'s; one that it is given is not touched."""
    from mcp.server.request_state import RequestStateSecurity

    original = vars(RequestStateSecurity)["ephemeral"]

    def ephemeral(cls: type[RequestStateSecurity], **more: Any) -> RequestStateSecurity:
        return cls(codec=CodecOnDemand(os.urandom(32)), **more)

    RequestStateSecurity.ephemeral = classmethod(ephemeral)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        RequestStateSecurity.ephemeral = original
