"""Outputs of other resources among a component's arguments.

The fleet's rules read plain values, so each output is replaced by a placeholder that they accept, and each resource
below the component gets the output in the placeholder's place. When the output's value is known, it is validated by the
rule of its location. An output that decides which resources there are, or what they are called, is a mistake.
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
from pulumi_mcpfleet.fleet.base import ConfigPath


@dataclass(frozen=True)
class OutputLocation:
    """A location among the arguments that accepts an output.

    Attributes:
        pattern: The path below a server or client; `*` is any key of a mapping, `[]` any index of a list.
        value_type: The type of the value, which has its rules.
        placeholder: The format of a valid value of that type. `token` is an identifier of lowercase letters, digits and
            hyphens, `short` one of 13 characters, `number` has 10 digits, and `region` is the service's.
    """

    pattern: tuple[str, ...]
    value_type: Any
    placeholder: str


_OWNER: Final = "mcpfleet-output"
_ACCOUNT: Final = f"{{token}}@{_OWNER}.iam.gserviceaccount.com"
_IMAGE: Final = f"docker.io/{_OWNER}/{{token}}@sha256:{'0' * 64}"
_LOCATION: Final = f"projects/{_OWNER}/locations/{{region}}"


def _location(pattern: str, value_type: Any, placeholder: str = "{token}") -> OutputLocation:
    return OutputLocation(tuple(pattern.split(".")), value_type, placeholder)


OUTPUT_LOCATIONS: Final = (
    _location("source.image", images.ImageUrl, _IMAGE),
    _location("sidecars.*.image", images.ImageUrl, _IMAGE),
    _location("env.*", values.Text),
    _location("sidecars.*.env.*", values.Text),
    _location("secrets.*.secret", identities.SecretName),
    _location("secrets.*.version", identities.SecretVersion, "{number}"),
    _location("sidecars.*.secrets.*.secret", identities.SecretName),
    _location("sidecars.*.secrets.*.version", identities.SecretVersion, "{number}"),
    _location("volumes.*.secret", identities.SecretName),
    _location("volumes.*.version", identities.SecretVersion, "{number}"),
    _location("volumes.*.items.*.version", identities.SecretVersion, "{number}"),
    _location("volumes.*.gcs.bucket", values.Bucket),
    _location("volumes.*.nfs.server", references.NfsServer),
    _location("access.iam.invokers.[]", identities.Member, f"serviceAccount:{_ACCOUNT}"),
    _location("access.iap.members.[]", identities.Member, f"serviceAccount:{_ACCOUNT}"),
    _location("service_account", identities.Account, _ACCOUNT),
    _location("vpc.network", values.Network),
    _location("vpc.subnetwork", values.Network),
    _location("vpc.connector", references.Connector, f"{_LOCATION}/connectors/{{short}}"),
    _location("cloudsql_instances.[]", references.SqlInstance, f"{_OWNER}:{{region}}:{{token}}"),
    _location("encryption_key", references.EncryptionKey, f"{_LOCATION}/keyRings/{_OWNER}/cryptoKeys/{{token}}"),
)
"""The locations that accept an output. Everywhere else, an argument must be a plain value."""


def find_output_location(path: Sequence[str]) -> OutputLocation | None:
    """Find the location of *path*; None if it accepts only plain values.

    Args:
        path: The path below a server or client; an index of a list is `[]`.
    """
    return next((location for location in OUTPUT_LOCATIONS if _matches(location.pattern, path)), None)


def _matches(pattern: Sequence[str], path: Sequence[str]) -> bool:
    return len(pattern) == len(path) and all(
        step in ("*", actual) and (actual != "[]" or step == "[]") for step, actual in zip(pattern, path, strict=True)
    )


class Deferred:
    """The outputs among a component's arguments.

    Args:
        region: The region of the services; any region if it is not known.
        prefix: The number of steps of a path before the keys of a server or client.
        describe_path: Formats a path for error messages.
    """

    def __init__(self, region: str, prefix: int, describe_path: Callable[[ConfigPath], str]) -> None:
        self._region = region
        self._prefix = prefix
        self._describe_path = describe_path
        self._outputs: dict[str, pulumi.Output[Any]] = {}
        self._mistakes: list[str] = []

    def replace(self, value: Any, path: ConfigPath = ()) -> Any:
        """Return a deep copy of *value* with a placeholder for each output."""
        if isinstance(value, pulumi.Output):
            return self._placeholder(cast("pulumi.Output[Any]", value), path)
        if isinstance(value, Mapping):
            mapping = cast("Mapping[Any, Any]", value)
            return {key: self.replace(item, (*path, key)) for key, item in mapping.items()}
        if isinstance(value, list | tuple):
            items = cast("Sequence[Any]", value)
            return [self.replace(item, (*path, index)) for index, item in enumerate(items)]
        return value

    @property
    def mistakes(self) -> Sequence[str]:
        """A message for each output in a location that accepts only plain values."""
        return self._mistakes

    def resolve(self, value: Any) -> Any:
        """Return *value* with the outputs in the places of their placeholders."""
        if not self._outputs:
            return value
        if isinstance(value, str):
            return self._outputs.get(value, value)
        if isinstance(value, Mapping):
            return {key: self.resolve(item) for key, item in cast("Mapping[Any, Any]", value).items()}
        if isinstance(value, list | tuple):
            return [self.resolve(item) for item in cast("Sequence[Any]", value)]
        return value

    def has_placeholder(self, value: Any) -> bool:
        """Return True if *value* is a placeholder, or contains one."""
        return any(text in self._outputs for text in _texts(value))

    def component_options(self, opts: pulumi.ResourceOptions | None) -> pulumi.ResourceOptions | None:
        """Return the component's options: *opts*, with a transformation that gives the outputs to its children."""
        if not self._outputs:
            return opts
        options = copy.copy(opts) if opts is not None else pulumi.ResourceOptions()
        options.transformations = [*(options.transformations or ()), self._transform]
        return options

    def _transform(self, args: pulumi.ResourceTransformationArgs) -> pulumi.ResourceTransformationResult | None:
        if not args.props:
            return None
        return pulumi.ResourceTransformationResult(self.resolve(args.props), args.opts)

    def _placeholder(self, value: pulumi.Output[Any], path: ConfigPath) -> str:
        location = find_output_location(["[]" if isinstance(step, int) else str(step) for step in path[self._prefix :]])
        if location is None:
            self._mistakes.append(
                f"{self._describe_path(path)}: can't be an output, because it decides what is created;"
                " write a plain value"
            )
            return ""
        text = ".".join(map(str, path))
        slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[-30:].strip("-")
        digest = hashlib.sha256(text.encode()).hexdigest()
        placeholder = location.placeholder.format(
            token=f"output-{slug}-{digest[:6]}",
            short=f"o{digest[:12]}",
            number=f"9{int(digest, 16) % 10**9:09}",
            region=self._region,
        )
        self._outputs[placeholder] = value.apply(lambda known: _validate(known, location, self._describe_path(path)))
        return placeholder


def _validate(value: Any, location: OutputLocation, path: str) -> Any:
    """Validate an output's *value* by the type of its location, and return it.

    Raises:
        pulumi.RunError: It is not valid.
    """
    try:
        return TypeAdapter(location.value_type).validate_python(value)
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False)
        raise pulumi.RunError(f"{path}: {first['msg'].removeprefix('Value error, ')}") from None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in cast("Mapping[Any, Any]", value).values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in cast("Sequence[Any]", value):
            yield from _texts(item)
