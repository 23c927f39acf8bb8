"""Faster startup and less memory: parts of the SDK that most servers never use are built or imported on first use.

Importing the SDK is expensive (mcp 2.3, Python 3.13; docs/benchmarks.md has the figures):

- It defines about 490 models (one set for each protocol version, and one for all), of which a server uses a tenth.
- It builds 22 type adapters for unions of those models, which would build the deferred models after all.
- It imports its client with an HTTP client, which a server needs only if its tools call other services.
- It loads a cipher library with its own copy of OpenSSL, for the state that a client carries between the rounds
  of a call. Most servers have no such state.

Python 3.15 has `lazy import` for the last two (PEP 810). If a later SDK moves a name that is listed below, the only
effect is more memory.
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

_REQUEST_STATE: Final = "mcp.server.request_state"

_LAZY_MODULES: Final[Mapping[str, str]] = {
    "cryptography.exceptions": _REQUEST_STATE,
    "cryptography.hazmat.primitives.ciphers.aead": _REQUEST_STATE,
    "cryptography.hazmat.primitives.hashes": _REQUEST_STATE,
    "cryptography.hazmat.primitives.kdf.hkdf": _REQUEST_STATE,
    "httpx2": "mcp.server.mcpserver.resources.types",
    "mcp.client._input_required": "mcp",
    "mcp.client.client": "mcp",
    "mcp.client.session": "mcp",
    "mcp.client.session_group": "mcp",
    "mcp.client.stdio": "mcp",
}
"""Modules that are imported on first use, each with the module of the SDK that imports it."""


def import_sdk() -> None:
    """Import the SDK's server lazily; does nothing if any part of the SDK has been imported already."""
    if "mcp" in sys.modules or "mcp_types" in sys.modules:
        return
    with ExitStack() as stack:
        stack.enter_context(defer_models())
        stack.enter_context(_defer_adapters())
        stack.enter_context(_defer_modules())
        importlib.import_module("mcp.server.mcpserver")
    _resolve_on_access(sys.modules["mcp"])


@contextmanager
def defer_models() -> Generator[None]:
    """Within the context, build the validator of each new model class at its first use.

    `defer_build` is pydantic's option for this. Classes defined within the context inherit it from the base class.
    """
    original = BaseModel.model_config
    BaseModel.model_config = {**original, "defer_build": True}
    try:
        yield
    finally:
        BaseModel.model_config = original


@contextmanager
def _defer_adapters() -> Generator[None]:
    """Within the context, build each new type adapter at its first use.

    Only for the SDK's adapters, which a test builds. Mistakes in a user's adapter must show where it is defined, and
    names in its annotations must be resolved there.
    """
    adapter: Any = TypeAdapter
    original = adapter.__init__

    def deferred(self: Any, *args: Any, config: ConfigDict | None = None, **options: Any) -> None:
        try:
            original(self, *args, config={**(config or {}), "defer_build": True}, **options)
        except PydanticUserError:
            original(self, *args, config=config, **options)  # the type has its own configuration

    adapter.__init__ = deferred
    try:
        yield
    finally:
        adapter.__init__ = original


@contextmanager
def _defer_modules() -> Generator[None]:
    """Within the context, importing one of `_LAZY_MODULES` gives a lazy module instead."""
    lazy_modules = {name: _LazyModule(name) for name in _LAZY_MODULES if name not in sys.modules}
    sys.modules.update(lazy_modules)
    try:
        yield
    finally:
        for name, module in lazy_modules.items():
            module.is_importing = False
            if sys.modules.get(name) is module:
                del sys.modules[name]


class _LazyModule(ModuleType):
    """Replaces a module: returns lazy names while the SDK is imported, and the module's real members after that."""

    is_importing = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        lazy = _LazyName(self.__name__, name)
        return lazy if self.is_importing else lazy.resolve()


class _LazyName:
    """Replaces a class or function until its first call."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def resolve(self) -> Any:
        """Import and return the real class or function."""
        return getattr(importlib.import_module(self._module), self._name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Resolves all names of the importing module: an `except` clause needs a real class, and runs after a call.
        members = vars(sys.modules[_LAZY_MODULES[self._module]])
        for name, member in members.items():
            if isinstance(member, _LazyName):
                members[name] = member.resolve()
        return self.resolve()(*args, **kwargs)


def _resolve_on_access(package: ModuleType) -> None:
    """Replace a package's lazy names with a `__getattr__` that resolves them on access."""
    members = vars(package)
    lazy = {name: member for name, member in members.items() if isinstance(member, _LazyName)}

    def find(name: str) -> Any:
        if name not in lazy:
            raise AttributeError(f"module {package.__name__!r} has no attribute {name!r}")
        members[name] = lazy[name].resolve()
        return members[name]

    for name in lazy:
        del members[name]
    members["__getattr__"] = find


class LazyCodec:
    """The SDK's codec for the state that clients carry, created for the first state."""

    def __init__(self, key: bytes | str) -> None:
        """Store a key of at least 32 bytes."""
        self._key = key
        self._codec: RequestStateCodec | None = None

    def _get_codec(self) -> "RequestStateCodec":
        if self._codec is None:
            from mcp.server.request_state import AESGCMRequestStateCodec

            self._codec = AESGCMRequestStateCodec([self._key])
        return self._codec

    def seal(self, payload: bytes) -> str:
        """Encrypt a state."""
        return self._get_codec().seal(payload)

    def unseal(self, token: str) -> bytes:
        """Decrypt a state.

        Raises:
            InvalidRequestState: The token was not sealed with this key.
        """
        return self._get_codec().unseal(token)


@contextmanager
def defer_state_keys() -> Generator[None]:
    """Within the context, a server that generates its own key gets a `LazyCodec`; a given key is not affected."""
    from mcp.server.request_state import RequestStateSecurity

    original = vars(RequestStateSecurity)["ephemeral"]

    def ephemeral(cls: type[RequestStateSecurity], **options: Any) -> RequestStateSecurity:
        return cls(codec=LazyCodec(os.urandom(32)), **options)

    RequestStateSecurity.ephemeral = classmethod(ephemeral)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        RequestStateSecurity.ephemeral = original
