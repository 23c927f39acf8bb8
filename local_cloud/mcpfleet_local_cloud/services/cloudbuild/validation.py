"""Validates a `Build`: Google's own errors, and errors for fields that the local cloud does not support.

Sources: the REST reference of cloudbuild.googleapis.com v1 (projects.builds), and error texts that users report.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import invalid, unimplemented
from mcpfleet_local_cloud.services.cloudbuild.docker import parse_command
from mcpfleet_local_cloud.state.store import Document

DOCKER: Final = "gcr.io/cloud-builders/docker"
_BUILDPACKS: Final = ("gcr.io/k8s-skaffold/pack", "gcr.io/buildpacks/", "buildpacksio/pack")
_NO_LOGS: Final = (
    "if 'build.service_account' is specified, the build must either (a) specify 'build.logs_bucket', (b) use the "
    "REGIONAL_USER_OWNED_BUCKET build.options.default_logs_bucket_behavior option, or (c) use either "
    "CLOUD_LOGGING_ONLY / NONE logging options"
)
_ACCOUNT: Final = re.compile(r"projects/([^/]+)/serviceAccounts/([^/\s]+)")
_DURATION: Final = re.compile(r"([0-9]{1,6})(\.[0-9]{1,9})?s")
_IMAGE: Final = re.compile(r"[a-z0-9][a-z0-9._/:-]{0,400}[a-z0-9](:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?")
_LOOPBACK_REGISTRY: Final = re.compile(r"(localhost|127\.[0-9.]+)(:[0-9]+)?/")
_ALLOWED_VARIABLES: Final = ("DOCKER_BUILDKIT", "BUILDKIT_PROGRESS")
_SUBSTITUTION: Final = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_DEFAULT_TIMEOUT: Final = 600
_MAX_TIMEOUT: Final = 86_400
_MAX_STEPS: Final = 300
_MAX_IMAGES: Final = 100
_TAG: Final = re.compile(r"[\w][\w.-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class StepRequest:
    """One validated step.

    Attributes:
        arguments: The arguments of docker.
        environment: The environment variables of docker.
        folder: The working folder, relative to the workspace.
        paths_read: The paths that docker itself opens, relative to that folder.
    """

    arguments: Sequence[str]
    environment: tuple[tuple[str, str], ...]
    folder: str
    paths_read: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """A validated request for a build.

    Attributes:
        account: The address of the service account of the build.
        timeout: The timeout in seconds.
        logs: Whether a log is written.
        source: Bucket, object and generation; None for an empty workspace.
        steps: The docker commands to run, in order.
        images: The images to push.
    """

    account: str
    timeout: float
    logs: bool
    source: tuple[str, str, str] | None
    steps: Sequence[StepRequest]
    images: Sequence[str]


def parse_build(body: Document, values: Mapping[str, str]) -> BuildRequest:
    """Validate *body*, a `Build`.

    Args:
        body: The message.
        values: The values of the built-in substitutions.

    Raises:
        GoogleError: INVALID_ARGUMENT, UNIMPLEMENTED.
    """
    account: str = body.get("serviceAccount", "")
    logging: str = body.get("options", {}).get("logging", "")
    if account and logging not in {"CLOUD_LOGGING_ONLY", "STACKDRIVER_ONLY", "NONE"}:
        raise invalid(_NO_LOGS)
    if not account:
        raise unimplemented("build.serviceAccount", "set the account; builds have no default account here.")
    match = _ACCOUNT.fullmatch(account)
    if match is None:
        raise invalid(f"invalid build.service_account {account!r}: want projects/PROJECT/serviceAccounts/ACCOUNT")
    if not all(_TAG.fullmatch(item) for item in body.get("tags", [])):
        raise invalid("invalid build.tags: must be valid Docker tags")
    images = _parse_images(body.get("images", []), values)
    return BuildRequest(
        account=match[2],
        timeout=_parse_seconds(body, "timeout") or _DEFAULT_TIMEOUT,
        logs=logging != "NONE",
        source=_parse_source(body.get("source", {})),
        steps=_parse_steps(body.get("steps", []), values, {_with_tag(item) for item in images}),
        images=images,
    )


def _parse_seconds(fields: Document, name: str) -> float:
    value = float(fields.get(name, "0s")[:-1])
    if not 0 <= value <= _MAX_TIMEOUT:
        raise invalid(
            f"invalid build.{name} '{fields[name]}': must be a duration of at most {_MAX_TIMEOUT}s, such as '600s'"
        )
    return value


def _parse_source(source: Document) -> tuple[str, str, str] | None:
    storage: Document | None = source.get("storageSource")
    if storage is None:
        return None
    path = "build.source.storageSource"
    if storage.get("sourceFetcher", "SOURCE_FETCHER_UNSPECIFIED") not in ("SOURCE_FETCHER_UNSPECIFIED", "GSUTIL"):
        raise unimplemented(f"{path}.sourceFetcher", "use GSUTIL or leave it out.")
    bucket, name = (json_api.require_field(storage, field, path) for field in ("bucket", "object"))
    if not name.endswith((".tar.gz", ".tgz", ".zip")):
        raise invalid(f"invalid build.source: {name} must be a .tar.gz, .tgz or .zip archive")
    if name.endswith(".zip"):
        raise unimplemented(f"{path}.object", "only .tar.gz archives are supported here.")
    generation: str = storage.get("generation", "0")
    return bucket, name, "" if generation == "0" else generation


def _parse_steps(steps: Sequence[Document], values: Mapping[str, str], images: Collection[str]) -> list[StepRequest]:
    if not steps:
        raise invalid("invalid build: no build steps provided")
    if len(steps) > _MAX_STEPS:
        raise invalid(f"invalid build: {len(steps)} build steps provided, the limit is {_MAX_STEPS}")
    return [_parse_step(step, f"build.steps[{index}]", values, images) for index, step in enumerate(steps)]


def _parse_step(step: Document, path: str, values: Mapping[str, str], images: Collection[str]) -> StepRequest:
    name = json_api.require_field(step, "name", path)
    if name.startswith(_BUILDPACKS):
        raise unimplemented(
            f"{path}.name",
            f"buildpacks ({name}) are not supported here; use a Dockerfile.",
        )
    if name not in {DOCKER, f"{DOCKER}:latest"}:
        raise unimplemented(f"{path}.name", f"steps run {DOCKER} here, not {name}.")
    arguments = [_substitute(text, values) for text in _read_strings(step, "args", path)]
    command = parse_command(arguments, path)
    variables: list[tuple[str, str]] = []
    for text in _read_strings(step, "env", path):
        key, separator, value = _substitute(text, values).partition("=")
        if not separator or not key:
            raise invalid(f"invalid {path}.env {text!r}: must be of the form KEY=VALUE")
        if key not in _ALLOWED_VARIABLES:
            raise unimplemented(f"{path}.env", f"only {' and '.join(_ALLOWED_VARIABLES)} can be set here, not {key}.")
        variables.append((key, value))
    folder: str = step.get("dir", "")
    if PurePosixPath(folder).is_absolute() or ".." in PurePosixPath(folder).parts:
        raise unimplemented(f"{path}.dir", f"{folder} is outside of the workspace; write it as seen from there.")
    for name in command.image_names:
        if _with_tag(name) not in images:
            raise unimplemented(
                f"{path}.args",
                f"{name} is not in build.images: an image that is not pushed would stay on this machine.",
            )
    return StepRequest(arguments=arguments, environment=tuple(variables), folder=folder, paths_read=command.paths_read)


def _with_tag(image: str) -> str:
    return image if ":" in image.rpartition("/")[2] else f"{image}:latest"


def _parse_images(images: Sequence[str], values: Mapping[str, str]) -> list[str]:
    if len(images) > _MAX_IMAGES:
        raise invalid(f"invalid build: {len(images)} images provided, the limit is {_MAX_IMAGES}")
    names = [_substitute(name, values) for name in images]
    for name in names:
        if not _IMAGE.fullmatch(name):
            raise invalid(f"invalid image name {name!r}: could not parse reference: {name}")
        if not _LOOPBACK_REGISTRY.match(name):
            # Docker's store belongs to this machine: a build could take the name of somebody else's image.
            raise unimplemented(
                "build.images", f"{name} is not in a registry on this machine; builds can push only there."
            )
    return names


def _substitute(text: str, values: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        key = match[1] or match[2]
        if key is None:
            return "$"
        if key not in values:
            raise invalid(
                f"invalid value for 'build.substitutions': key in the template {key!r} is not a valid built-in "
                "substitution"
            )
        return values[key]

    return _SUBSTITUTION.sub(value, text)


def _read_strings(fields: Document, name: str, path: str) -> list[str]:
    strings: list[str] = fields.get(name, [])
    if any("\0" in text for text in strings):
        raise invalid(f"invalid {path}.{name}: a zero byte is no part of an argument")
    return strings
