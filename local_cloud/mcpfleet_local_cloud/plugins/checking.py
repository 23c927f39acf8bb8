"""Checks inputs against a table of properties, with the error messages of the Terraform bridge."""

import random
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from mcpfleet_local_cloud.plugins.call import CheckFailure, failure_at
from mcpfleet_local_cloud.plugins.properties import SCALARS, Field, join_path
from mcpfleet_local_cloud.plugins.values import UNKNOWN, Properties, Secret

DEFAULTS: Final = "__defaults"  # the bridge's list of the properties that it filled in; kept in inputs and state
_TYPE_NAMES: Final = {"int": "number", "float": "number", "bool": "boolean"}


class Checker:
    """Collects every mistake in one resource's inputs.

    Args:
        resource: the resource's name, which each message ends with.
        package: the provider's configuration namespace.
    """

    def __init__(self, resource: str, package: str = "gcp") -> None:
        self.resource = resource
        self.failures: list[CheckFailure] = []
        self._package = package

    def fail(self, path: str, reason: str) -> None:
        """Record a mistake at *path*."""
        self.failures.append(failure_at(self.resource, path, reason))

    def check(self, fields: Sequence[Field], inputs: Mapping[str, Any], path: str = "") -> Properties:
        """The inputs converted to the types of *fields*, with defaults."""
        input_fields = {field.name: field for field in fields if field.is_input}
        for name in inputs:
            if name not in input_fields and name != DEFAULTS:
                self.fail(join_path(path, name), "Invalid or unknown key")
        checked: Properties = {}
        for name, field in input_fields.items():
            value = self._check_value(field, inputs.get(name), join_path(path, name))
            if value is not None:
                checked[name] = value
        for field in input_fields.values():
            self._check_conflicts(field, checked, path)
        return checked

    def _check_value(self, field: Field, value: Any, path: str) -> Any:
        if value is None:
            if field.required:
                self._fail_missing(field, path)
            return None if field.implied else field.default
        if value is UNKNOWN:
            return value
        checked = self._check_type(field, value, path)
        if field.choices and checked is not UNKNOWN and checked not in (*field.choices, ""):
            allowed = " ".join(f'"{choice}"' for choice in (*field.choices, ""))
            self.fail(path, f"expected {field.name} to be one of [{allowed}], got {checked}")
        return Secret(checked) if field.secret else checked

    def _fail_missing(self, field: Field, path: str) -> None:
        reason = f"Missing required property '{path}'"
        if field.config:
            reason += (
                ". Either set it explicitly or configure it with "
                f"'pulumi config set {self._package}:{field.config} <value>'"
            )
        self.failures.append(CheckFailure(reason))

    def _check_type(self, field: Field, value: Any, path: str) -> Any:
        if field.kind in SCALARS:
            return self._check_scalar(field.kind, value, path)
        if field.kind == "map":
            return self._check_map(value, path)
        if field.kind == "block":
            if not isinstance(value, Mapping):
                return self._fail_type("object", value, path)
            return self.check(field.children, cast("Mapping[str, Any]", value), path)
        if not isinstance(value, list):
            return self._fail_type("list", value, path)
        items = cast("list[Any]", value)
        if field.kind in ("list", "set"):
            return [self._check_scalar("string", item, f"{path}[{index}]") for index, item in enumerate(items)]
        checked: list[Any] = []
        for index, item in enumerate(items):
            item_path = f"{path}[{index}]"
            if item is UNKNOWN:
                checked.append(item)
            elif isinstance(item, Mapping):
                checked.append(self.check(field.children, cast("Mapping[str, Any]", item), item_path))
            else:
                self._fail_type("object", item, item_path)
        return checked

    def _check_map(self, value: Any, path: str) -> Any:
        if not isinstance(value, Mapping):
            return self._fail_type("map", value, path)
        entries = cast("Mapping[str, Any]", value)
        return {
            key: self._check_scalar("string", item, join_path(path, key))
            for key, item in entries.items()
            if item is not None
        }

    def _check_scalar(self, kind: str, value: Any, path: str) -> Any:
        """The value as *kind*; like Terraform, converts between strings, numbers and booleans where nothing is lost."""
        if value is UNKNOWN:
            return value
        if isinstance(value, (Mapping, list)) or value is None:
            return self._fail_type(_TYPE_NAMES.get(kind, kind), cast("Any", value), path)
        try:
            return _convert(kind, value)
        except ValueError:
            return self._fail_type(_TYPE_NAMES.get(kind, kind), value, path)

    def _fail_type(self, expected: str, value: Any, path: str) -> None:
        self.fail(path, f"expected {expected} type, got {value!r} of type {_type_name(value)}")

    def _check_conflicts(self, field: Field, checked: Properties, path: str) -> None:
        for other in field.conflicts:
            if field.name in checked and other in checked:
                self.fail(
                    join_path(path, field.name),
                    f'Conflicting configuration arguments. "{field.name}": conflicts with {other}',
                )


def _convert(kind: str, value: Any) -> Any:
    if kind == "string":
        return str(value).lower() if isinstance(value, bool) else str(value)
    if kind == "bool":
        if isinstance(value, bool):
            return value
        if value in ("true", "false"):
            return value == "true"
        raise ValueError
    if isinstance(value, bool):
        raise ValueError  # noqa: TRY004  the caller reports it like any other unreadable number
    number = float(value)
    if kind == "int":
        if not number.is_integer():
            raise ValueError
        return int(number)
    return int(number) if number.is_integer() else number


def _type_name(value: Any) -> str:
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "list", dict: "object"}
    return names.get(cast("type[Any]", type(value)), "null")


def generate_name(
    field: Field, *, name: str, olds: Mapping[str, Any], proposal: str, disabled: bool, seed: bytes
) -> str | None:
    """The name of a resource that the program did not name; an earlier generated name is kept.

    Args:
        field: the naming property.
        name: the resource's logical name.
        olds: the inputs of the last update.
        proposal: the engine's own proposal, empty without one.
        disabled: whether the project's settings forbid generated names.
        seed: the engine's random seed, the same for every run of one update plan.
    """
    if isinstance(olds.get(field.name), str):
        return olds[field.name]
    if disabled:
        return None
    if proposal:
        return proposal[: field.autoname]
    generator = random.Random(seed) if seed else random.SystemRandom()  # noqa: S311  names need no secrecy
    suffix = "".join(generator.choice("0123456789abcdef") for _ in range(7))
    return f"{name.lower()[: field.autoname - 8]}-{suffix}"
