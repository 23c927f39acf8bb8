"""Tables of properties, the one description that checks, diffs and REST bodies are derived from.

A `Field` is one property of a resource or of a nested block, with the facts of the real provider's Terraform schema:
whether the server may fill it (`computed`), whether a change needs a new resource (`force_new`), its default, and its
name in the API.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

PropertyType = Literal["string", "int", "float", "bool", "map", "list", "set", "block", "blocks", "block set"]

EquivalenceFunc = Callable[[Any, Any], bool]
"""Whether the API's value and the program's value mean the same; an absent value is `""`."""

SCALARS: Final = frozenset({"string", "int", "float", "bool"})


@dataclass(frozen=True, kw_only=True)
class Field:
    """One property.

    Attributes:
        name: the name in Pulumi.
        kind: the type; `list` and `set` hold scalars, `block` one object, `blocks` and `block set` many.
        wire: the name in the API; empty for a property that only the provider knows.
        required: whether the program must set it.
        computed: whether the server may choose a value if the program sets none (Terraform's Optional and Computed).
        output: whether only the server sets it.
        force_new: whether a change replaces the resource.
        default: the meaning of an absent value.
        implied: whether the default is the provider's and not the schema's: then the state has it, but not the inputs.
        choices: the only values allowed, if any.
        children: the properties of a block.
        send_empty: whether an empty value is sent, as null or the kind's zero (magic modules' `send_empty_value`).
        wire_list: whether the API has a list of one item where Pulumi has one object.
        wire_key: the child that is a map's key in the API (`cleanupPolicies`).
        conflicts: names of siblings that must not be set together with it.
        ignore_case: whether values that differ only in case are equal.
        equivalent: decides whether two different values mean the same (Terraform's DiffSuppressFunc).
        secret: whether the state always encrypts it.
        autoname: the maximum length of a name that the provider generates; 0 if the program must name it.
        preserved_keys: keys of a computed map that the server fills in, and that stay if the program omits them.
        config: the provider setting that replaces an absent value.
    """

    name: str
    kind: PropertyType = "string"
    wire: str = ""
    required: bool = False
    computed: bool = False
    output: bool = False
    force_new: bool = False
    default: Any = None
    implied: bool = False
    choices: tuple[str, ...] = ()
    children: tuple["Field", ...] = ()
    send_empty: bool = False
    wire_list: bool = False
    wire_key: str = ""
    conflicts: tuple[str, ...] = ()
    ignore_case: bool = False
    equivalent: EquivalenceFunc | None = None
    secret: bool = False
    autoname: int = 0
    preserved_keys: tuple[str, ...] = ()
    config: str = ""

    @property
    def is_input(self) -> bool:
        """Whether a program may set the property."""
        return not self.output


def _field(name: str, kind: PropertyType, wire: str | None, attributes: dict[str, Any]) -> Field:
    return Field(name=name, kind=kind, wire=name if wire is None else wire, **attributes)


def text(name: str, wire: str | None = None, **attributes: Any) -> Field:
    """A string property."""
    return _field(name, "string", wire, attributes)


def integer(name: str, wire: str | None = None, **attributes: Any) -> Field:
    """An integer property."""
    return _field(name, "int", wire, attributes)


def number(name: str, wire: str | None = None, **attributes: Any) -> Field:
    """A number property."""
    return _field(name, "float", wire, attributes)


def boolean(name: str, wire: str | None = None, **attributes: Any) -> Field:
    """A boolean property."""
    return _field(name, "bool", wire, attributes)


def mapping(name: str, wire: str | None = None, **attributes: Any) -> Field:
    """A property that is a map of strings."""
    return _field(name, "map", wire, attributes)


def texts(name: str, wire: str | None = None, *, ordered: bool = True, **attributes: Any) -> Field:
    """A property that is a list or set of strings."""
    return _field(name, "list" if ordered else "set", wire, attributes)


def block(name: str, children: Sequence[Field], wire: str | None = None, **attributes: Any) -> Field:
    """A property that is one object."""
    return replace(_field(name, "block", wire, attributes), children=tuple(children))


def blocks(
    name: str, children: Sequence[Field], wire: str | None = None, *, ordered: bool = True, **attributes: Any
) -> Field:
    """A property that is a list or set of objects."""
    return replace(_field(name, "blocks" if ordered else "block set", wire, attributes), children=tuple(children))


def join_path(path: str, name: str) -> str:
    """The path of the property *name* below *path*, in Pulumi's notation."""
    if not all(letter.isalnum() or letter in "_-" for letter in name):
        quoted = name.replace('"', '\\"')
        return f'{path}["{quoted}"]'
    return f"{path}.{name}" if path else name


def is_same_value(field: Field, old: Any, new: Any) -> bool:
    """Whether two scalars, values of a property or items of its list, mean the same."""
    if field.ignore_case:
        return str(old).casefold() == str(new).casefold()
    return bool(old == new) or (field.equivalent is not None and field.equivalent(old, new))


def is_zero(value: Any) -> bool:
    """Whether Terraform treats *value* as not set."""
    return value is None or value is False or value == "" or value == 0 or value == [] or value == {}
