"""Tables of properties: one description from which checking, diffing and the REST bodies all follow.

A `Field` is one property of a resource or of a nested block, with the facts of the real provider's Terraform schema:
whether the server may fill it (`computed`), whether a change needs a new resource (`force_new`), its default, and how
it is spelled in the API.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

PropertyType = Literal["string", "int", "float", "bool", "map", "list", "set", "block", "blocks", "block set"]

Alike = Callable[[Any, Any], bool]
"""Whether what the API answered and what the program gives (`""`: nothing) mean the same."""

SCALARS: Final = frozenset({"string", "int", "float", "bool"})


@dataclass(frozen=True, kw_only=True)
class Field:
    """One property.

    Attributes:
        name: as Pulumi spells it.
        kind: what it holds; `list` and `set` hold scalars, `block` one object, `blocks` and `block set` many.
        wire: as the API spells it; empty for what only the provider knows.
        required: the program must give it.
        computed: the server may choose it when the program does not (Terraform's Optional and Computed).
        output: only the server sets it.
        force_new: a change replaces the resource.
        default: what an absent value means.
        implied: the default is the provider's, not the schema's: it is in the state, but not among the inputs.
        choices: the only values allowed, if any.
        children: the properties of a block.
        send_empty: sent even when empty, as null or its zero (magic modules' `send_empty_value`).
        wire_list: one object for Pulumi, a list of one for the API.
        wire_key: the child that is a map's key in the API (`cleanupPolicies`).
        conflicts: names of siblings that may not be given too.
        ignore_case: compared without regard to case.
        alike: says of different values whether they mean the same (Terraform's DiffSuppressFunc).
        secret: always encrypted in the state.
        autoname: the longest name that the provider may make up; 0 when the program must name it.
        kept: keys of a computed map that the server fills in, and that so stay where the program leaves them out.
        config: the provider setting that stands in when it is absent.
        any_of: siblings of which at least one must be given when this block is.
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
    alike: Alike | None = None
    secret: bool = False
    autoname: int = 0
    kept: tuple[str, ...] = ()
    config: str = ""

    @property
    def input(self) -> bool:
        """Whether a program may give it."""
        return not self.output


def _field(name: str, kind: PropertyType, wire: str | None, facts: dict[str, Any]) -> Field:
    return Field(name=name, kind=kind, wire=name if wire is None else wire, **facts)


def text(name: str, wire: str | None = None, **facts: Any) -> Field:
    """A string."""
    return _field(name, "string", wire, facts)


def integer(name: str, wire: str | None = None, **facts: Any) -> Field:
    """A whole number."""
    return _field(name, "int", wire, facts)


def number(name: str, wire: str | None = None, **facts: Any) -> Field:
    """A number."""
    return _field(name, "float", wire, facts)


def boolean(name: str, wire: str | None = None, **facts: Any) -> Field:
    """True or false."""
    return _field(name, "bool", wire, facts)


def mapping(name: str, wire: str | None = None, **facts: Any) -> Field:
    """A map of strings."""
    return _field(name, "map", wire, facts)


def texts(name: str, wire: str | None = None, *, ordered: bool = True, **facts: Any) -> Field:
    """Strings."""
    return _field(name, "list" if ordered else "set", wire, facts)


def block(name: str, children: Sequence[Field], wire: str | None = None, **facts: Any) -> Field:
    """One object."""
    return replace(_field(name, "block", wire, facts), children=tuple(children))


def blocks(
    name: str, children: Sequence[Field], wire: str | None = None, *, ordered: bool = True, **facts: Any
) -> Field:
    """Objects."""
    return replace(_field(name, "blocks" if ordered else "block set", wire, facts), children=tuple(children))


def inner(path: str, name: str) -> str:
    """The path of a property below *path*, as Pulumi writes paths."""
    if not all(letter.isalnum() or letter in "_-" for letter in name):
        quoted = name.replace('"', '\\"')
        return f'{path}["{quoted}"]'
    return f"{path}.{name}" if path else name


def same(field: Field, old: Any, new: Any) -> bool:
    """Whether two scalars of a property, or of its list, mean the same."""
    if field.ignore_case:
        return str(old).casefold() == str(new).casefold()
    return bool(old == new) or (field.alike is not None and field.alike(old, new))


def is_zero(value: Any) -> bool:
    """Whether Terraform takes *value* for not set."""
    return value is None or value is False or value == "" or value == 0 or value == [] or value == {}
