"""Lazy imports: deferred parts of the SDK are built on first use, with the same result."""

import ast
import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from mcp.server.request_state import InvalidRequestState, RequestStateSecurity
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

import mcpfleet_server
from mcpfleet_server.hosting import lazy_import, runner
from mcpfleet_server.hosting.lazy_import import LazyCodec, defer_models, defer_state_keys

KEY = "k" * 32


class Point(BaseModel):
    x: int


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    x: int


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Packages of this test's own: `heavy`, and an `sdk` that imports it in every way there is."""
    (tmp_path / "heavy.py").write_text(
        "class Wrong(Exception): ...\n"
        "def check(value):\n"
        "    if value < 0: raise Wrong(value)\n"
        "    return value\n"
        "LIMIT = 3\n"
    )
    (tmp_path / "sdk.py").write_text(
        "import whole\n"
        "from heavy import Wrong, check\n"
        "def checked(value):\n"
        "    try:\n"
        "        return check(value)\n"
        "    except Wrong:\n"
        "        return 'wrong'\n"
        "def limit():\n"
        "    return whole.LIMIT\n"
    )
    (tmp_path / "whole.py").write_text("LIMIT = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(lazy_import, "_LAZY_MODULES", {"heavy": "sdk", "whole": "sdk"})
    yield
    for name in ("heavy", "whole", "sdk"):
        sys.modules.pop(name, None)


def imported() -> Any:
    with lazy_import._defer_modules():
        return importlib.import_module("sdk")


def test_a_lazy_module_is_imported_at_its_first_use(modules):
    sdk = imported()
    assert "heavy" not in sys.modules
    assert sdk.checked(1) == 1
    assert "heavy" in sys.modules
    assert sdk.Wrong is sys.modules["heavy"].Wrong


def test_a_lazily_imported_exception_can_be_caught(modules):
    assert imported().checked(-1) == "wrong"


def test_a_lazily_imported_module_is_loaded_when_it_is_used(modules):
    sdk = imported()
    assert "whole" not in sys.modules
    assert sdk.limit() == 3


def test_a_package_resolves_its_names_itself_after_the_import(modules):
    sdk = imported()
    lazy_import._resolve_on_access(sdk)
    assert not [member for member in vars(sdk).values() if isinstance(member, lazy_import._LazyName)]
    assert sdk.Wrong is importlib.import_module("heavy").Wrong
    with pytest.raises(AttributeError, match="module 'sdk' has no attribute 'nothing'"):
        _ = sdk.nothing


def test_a_module_that_is_already_imported_is_left_alone(modules):
    heavy = importlib.import_module("heavy")
    assert imported().Wrong is heavy.Wrong


def test_a_type_adapter_is_built_at_its_first_use():
    with lazy_import._defer_adapters():
        adapter = TypeAdapter(Annotated[Point | None, Field(description="where")])
        generic = TypeAdapter[list[int]](list[int])
    assert not adapter.pydantic_complete
    assert adapter.validate_python({"x": "3"}) == Point(x=3)
    assert generic.validate_json("[1]") == [1]
    with pytest.raises(ValidationError):
        adapter.validate_python({"x": "three"})
    assert TypeAdapter(int).pydantic_complete


def test_a_type_adapter_of_a_model_keeps_the_models_configuration():
    with lazy_import._defer_adapters():
        adapter = TypeAdapter(Strict)
    with pytest.raises(ValidationError):
        adapter.validate_python({"x": "3"})


def test_a_model_is_built_at_its_first_use():
    with defer_models():

        class Later(BaseModel):
            x: int

    assert not Later.__pydantic_complete__
    assert Later(x=1).x == 1


def test_a_request_state_is_sealed_by_the_sdks_codec():
    codec = LazyCodec(KEY)
    token = codec.seal(b"state")
    assert RequestStateSecurity(keys=[KEY]).codec.unseal(token) == b"state"
    assert codec.unseal(token) == b"state"


@pytest.mark.parametrize(
    "token", ["", "v1.AAAA", LazyCodec("o" * 32).seal(b"state")], ids=["empty", "garbage", "of-another-key"]
)
def test_a_foreign_request_state_is_refused(token):
    with pytest.raises(InvalidRequestState):
        LazyCodec(KEY).unseal(token)


def test_a_missing_key_is_generated_anew_by_each_process():
    with defer_state_keys():
        first, other = RequestStateSecurity.ephemeral(ttl=5), RequestStateSecurity.ephemeral()
    assert isinstance(first.codec, LazyCodec)
    assert first.ttl == 5
    with pytest.raises(InvalidRequestState):
        other.codec.unseal(first.codec.seal(b"state"))
    assert not isinstance(RequestStateSecurity.ephemeral().codec, LazyCodec)


def test_a_weak_key_is_refused_at_startup():
    with defer_state_keys(), pytest.raises(ValueError, match="at least 32 bytes"):
        RequestStateSecurity(keys=["short"])


@pytest.mark.parametrize(("module", "importer"), list(lazy_import._LAZY_MODULES.items()))
def test_the_sdk_still_imports_the_modules_that_are_made_lazy(module, importer):
    """An SDK that imports these modules elsewhere would make the start slow again without any other failure."""
    spec = importlib.util.find_spec(importer)
    tree = ast.parse(Path(spec.origin).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {
        importlib.util.resolve_name("." * node.level + (node.module or ""), spec.parent)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
    assert module in imported


def test_nothing_is_lazy_in_a_process_that_has_already_imported_the_sdk():
    original = dict(sys.modules)
    lazy_import.import_sdk()
    assert dict(sys.modules) == original


def test_the_package_exports_serve_and_no_unknown_name():
    assert mcpfleet_server.serve is runner.serve
    with pytest.raises(AttributeError, match="no attribute 'served'"):
        _ = mcpfleet_server.served
