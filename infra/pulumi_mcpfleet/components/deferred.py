"""Values of arguments that are known only when another resource exists: outputs, in the places that may have some.

The fleet's rules read plain values, so each output is replaced by a placeholder that they accept, and each resource
below the component gets the output again in the placeholder's place. Once it is known, the output is held against the
rule of its place. An output that decides which resources there are, or what they are called, is a mistake.
"""

import copy
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import pulumi
from pydantic import TypeAdapter, ValidationError

from pulumi_mcpfleet.fleet import identities, images, references, values

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """Where an argument may be an output.

    Attributes:
        pattern: The keys from a server or client on; `*` is any key of a mapping, `[]` any index of a list.
        kind: The type that the value has to be of.
        placeholder: A value of that type, as a format. `token` is an identifier of lowercase letters, digits and
            hyphens, `short` one of 13 characters, `number` has 10 digits, and `region` is the service's.
    """

    pattern: tuple[str, ...]
    kind: Any
    placeholder: str


_OWNER: Final = "mcpfleet-output"
_ACCOUNT: Final = f"{{token}}@{_OWNER}.iam.gserviceaccount.com"
_IMAGE: Final = f"docker.io/{_OWNER}/{{token}}@sha256:{'0' * 64}"
_LOCATION: Final = f"projects/{_OWNER}/locations/{{region}}"


def _place(pattern: str, kind: Any, placeholder: str = "{token}") -> Place:
    return Place(tuple(pattern.split(".")), kind, placeholder)


PLACES: Final = (
    _place("source.image", images.ImageUrl, _IMAGE),
    _place("sidecars.*.image", images.ImageUrl, _IMAGE),
    _place("env.*", values.Text),
    _place("sidecars.*.env.*", values.Text),
    _place("secrets.*.secret", identities.SecretName),
    _place("secrets.*.version", identities.SecretVersion, "{number}"),
    _place("sidecars.*.secrets.*.secret", identities.SecretName),
    _place("sidecars.*.secrets.*.version", identities.SecretVersion, "{number}"),
    _place("volumes.*.secret", identities.SecretName),
    _place("volumes.*.version", identities.SecretVersion, "{number}"),
    _place("volumes.*.items.*.version", identities.SecretVersion, "{number}"),
    _place("volumes.*.gcs.bucket", values.Bucket),
    _place("volumes.*.nfs.server", references.NfsServer),
    _place("access.iam.invokers.[]", identities.Member, f"serviceAccount:{_ACCOUNT}"),
    _place("access.iap.members.[]", identities.Member, f"serviceAccount:{_ACCOUNT}"),
    _place("service_account", identities.Account, _ACCOUNT),
    _place("vpc.network", values.Network),
    _place("vpc.subnetwork", values.Network),
    _place("vpc.connector", references.Connector, f"{_LOCATION}/connectors/{{short}}"),
    _place("cloudsql_instances.[]", references.SqlInstance, f"{_OWNER}:{{region}}:{{token}}"),
    _place("encryption_key", references.EncryptionKey, f"{_LOCATION}/keyRings/{_OWNER}/cryptoKeys/{{token}}"),
)
"""Everywhere else an argument is a plain value."""


def place_of(path: Sequence[str]) -> Place | None:
    """The place that *path* is, from a server or client on; indices of lists are `[]`."""
    return next((place for place in PLACES if _matches(place.pattern, path)), None)


def _matches(pattern: Sequence[str], path: Sequence[str]) -> bool:
    return len(pattern) == len(path) and all(
        step in ("*", actual) and (actual != "[]" or step == "[]") for step, actual in zip(pattern, path, strict=True)
    )


class Deferred:
    """The outputs among a component's arguments.

    Args:
        region: The region of the services; any region where it is not known.
        prefix: How many steps of a path come before a server's or client's own keys.
        spell: What writes a path for the user.
    """

    def __init__(self, region: str, prefix: int, spell: Callable[[Path], str]) -> None:
        self._region = region
        self._prefix = prefix
        self._spell = spell
        self._outputs: dict[str, pulumi.Output[Any]] = {}
        self._mistakes: list[str] = []

    def replace(self, value: Any, path: Path = ()) -> Any:
        """*value* with a placeholder for each output, and with mappings and lists of its own."""
        if isinstance(value, pulumi.Output):
            return self._placeholder(cast("pulumi.Output[Any]", value), path)
        if isinstance(value, Mapping):
            found = cast("Mapping[Any, Any]", value)
            return {key: self.replace(one, (*path, key)) for key, one in found.items()}
        if isinstance(value, list | tuple):
            items = cast("Sequence[Any]", value)
            return [self.replace(one, (*path, index)) for index, one in enumerate(items)]
        return value

    @property
    def mistakes(self) -> Sequence[str]:
        """A line for each output in a place that has to be plain."""
        return self._mistakes

    def resolve(self, value: Any) -> Any:
        """*value* with the outputs in the places of their placeholders."""
        if not self._outputs:
            return value
        if isinstance(value, str):
            return self._outputs.get(value, value)
        if isinstance(value, Mapping):
            return {key: self.resolve(one) for key, one in cast("Mapping[Any, Any]", value).items()}
        if isinstance(value, list | tuple):
            return [self.resolve(one) for one in cast("Sequence[Any]", value)]
        return value

    def is_placeholder(self, value: Any) -> bool:
        """Whether *value* stands for an output, or contains one that does."""
        return any(one in self._outputs for one in _texts(value))

    def options(self, opts: pulumi.ResourceOptions | None) -> pulumi.ResourceOptions | None:
        """*opts* for the component, whose children get the outputs."""
        if not self._outputs:
            return opts
        found = copy.copy(opts) if opts is not None else pulumi.ResourceOptions()
        found.transformations = [*(found.transformations or ()), self._transform]
        return found

    def _transform(self, args: pulumi.ResourceTransformationArgs) -> pulumi.ResourceTransformationResult | None:
        if not args.props:
            return None
        return pulumi.ResourceTransformationResult(self.resolve(args.props), args.opts)

    def _placeholder(self, value: pulumi.Output[Any], path: Path) -> str:
        place = place_of(["[]" if isinstance(step, int) else str(step) for step in path[self._prefix :]])
        if place is None:
            self._mistakes.append(
                f"{self._spell(path)}: is an output, and decides what is created; write a plain value"
            )
            return ""
        text = ".".join(map(str, path))
        slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[-30:].strip("-")
        digest = hashlib.sha256(text.encode()).hexdigest()
        placeholder = place.placeholder.format(
            token=f"output-{slug}-{digest[:6]}",
            short=f"o{digest[:12]}",
            number=f"9{int(digest, 16) % 10**9:09}",
            region=self._region,
        )
        self._outputs[placeholder] = value.apply(lambda known: _checked(known, place, self._spell(path)))
        return placeholder


def _checked(value: Any, place: Place, path: str) -> Any:
    """*value*, which has to be of the kind of its place.

    Raises:
        pulumi.RunError: It is not.
    """
    try:
        return TypeAdapter(place.kind).validate_python(value)
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False)
        raise pulumi.RunError(f"{path}: {first['msg'].removeprefix('Value error, ')}") from None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in cast("Mapping[Any, Any]", value).values():
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in cast("Sequence[Any]", value):
            yield from _texts(one)
