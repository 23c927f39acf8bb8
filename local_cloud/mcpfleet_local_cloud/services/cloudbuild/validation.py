"""What a `Build` may say here: Google's own refusals, and by name what this machine does not honour.

Facts: the REST reference of cloudbuild.googleapis.com v1 (projects.builds), and the sentences that users report.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import invalid, unimplemented
from mcpfleet_local_cloud.services.cloudbuild.docker import command_of
from mcpfleet_local_cloud.state.store import Document

DOCKER: Final = "gcr.io/cloud-builders/docker"
_PACKS: Final = ("gcr.io/k8s-skaffold/pack", "gcr.io/buildpacks/", "buildpacksio/pack")
_NO_LOGS: Final = (
    "if 'build.service_account' is specified, the build must either (a) specify 'build.logs_bucket', (b) use the "
    "REGIONAL_USER_OWNED_BUCKET build.options.default_logs_bucket_behavior option, or (c) use either "
    "CLOUD_LOGGING_ONLY / NONE logging options"
)
_ACCOUNT: Final = re.compile(r"projects/([^/]+)/serviceAccounts/([^/\s]+)")
_DURATION: Final = re.compile(r"([0-9]{1,6})(\.[0-9]{1,9})?s")
_IMAGE: Final = re.compile(r"[a-z0-9][a-z0-9._/:-]{0,400}[a-z0-9](:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?")
_HERE: Final = re.compile(r"(localhost|127\.[0-9.]+)(:[0-9]+)?/")
_VARIABLES: Final = ("DOCKER_BUILDKIT", "BUILDKIT_PROGRESS")
_VARIABLE: Final = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_DEFAULT: Final = 600
_LONGEST: Final = 86_400
_STEPS: Final = 300
_IMAGES: Final = 100
_TAG: Final = re.compile(r"[\w][\w.-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One step.

    Attributes:
        arguments: Of docker.
        environment: Variables for it.
        folder: Where it runs, within the workspace.
        reads: What docker itself opens, as seen from there.
    """

    arguments: Sequence[str]
    environment: tuple[tuple[str, str], ...]
    folder: str
    reads: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Order:
    """A build as it was asked for, with nothing left to doubt.

    Attributes:
        account: The address of the service account that builds.
        timeout: Seconds that it may take.
        logs: Whether its log is kept.
        source: Bucket, object and generation; None: an empty workspace.
        steps: What docker is to do, one after another.
        images: What to push.
    """

    account: str
    timeout: float
    logs: bool
    source: tuple[str, str, str] | None
    steps: Sequence[Task]
    images: Sequence[str]


def order_of(body: Document, values: Mapping[str, str]) -> Order:
    """What *body*, a `Build`, asks for.

    Args:
        body: The message.
        values: The built-in substitutions.

    Raises:
        GoogleError: INVALID_ARGUMENT, UNIMPLEMENTED.
    """
    account: str = body.get("serviceAccount", "")
    logging: str = body.get("options", {}).get("logging", "")
    if account and logging not in {"CLOUD_LOGGING_ONLY", "STACKDRIVER_ONLY", "NONE"}:
        raise invalid(_NO_LOGS)
    if not account:
        raise unimplemented("build.serviceAccount", "name the account; there is no default one for builds here.")
    found = _ACCOUNT.fullmatch(account)
    if found is None:
        raise invalid(f"invalid build.service_account {account!r}: want projects/PROJECT/serviceAccounts/ACCOUNT")
    if not all(_TAG.fullmatch(one) for one in body.get("tags", [])):
        raise invalid("invalid build.tags: must be valid Docker tags")
    images = _images(body.get("images", []), values)
    return Order(
        account=found[2],
        timeout=_seconds(body, "timeout") or _DEFAULT,
        logs=logging != "NONE",
        source=_source(body.get("source", {})),
        steps=_steps(body.get("steps", []), values, {_with_tag(one) for one in images}),
        images=images,
    )


def _seconds(fields: Document, name: str) -> float:
    value = float(fields.get(name, "0s")[:-1])
    if not 0 <= value <= _LONGEST:
        raise invalid(
            f"invalid build.{name} '{fields[name]}': must be a duration of at most {_LONGEST}s, such as '600s'"
        )
    return value


def _source(source: Document) -> tuple[str, str, str] | None:
    storage: Document | None = source.get("storageSource")
    if storage is None:
        return None
    path = "build.source.storageSource"
    if storage.get("sourceFetcher", "SOURCE_FETCHER_UNSPECIFIED") not in ("SOURCE_FETCHER_UNSPECIFIED", "GSUTIL"):
        raise unimplemented(f"{path}.sourceFetcher", "a source is fetched in one way here.")
    bucket, name = (json_api.require_field(storage, field, path) for field in ("bucket", "object"))
    if not name.endswith((".tar.gz", ".tgz", ".zip")):
        raise invalid(f"invalid build.source: {name} must be a .tar.gz, .tgz or .zip archive")
    if name.endswith(".zip"):
        raise unimplemented(f"{path}.object", "archives are .tar.gz here.")
    generation: str = storage.get("generation", "0")
    return bucket, name, "" if generation == "0" else generation


def _steps(steps: Sequence[Document], values: Mapping[str, str], images: Collection[str]) -> list[Task]:
    if not steps:
        raise invalid("invalid build: no build steps provided")
    if len(steps) > _STEPS:
        raise invalid(f"invalid build: {len(steps)} build steps provided, the limit is {_STEPS}")
    return [_step(step, f"build.steps[{index}]", values, images) for index, step in enumerate(steps)]


def _step(step: Document, path: str, values: Mapping[str, str], images: Collection[str]) -> Task:
    name = json_api.require_field(step, "name", path)
    if name.startswith(_PACKS):
        raise unimplemented(
            f"{path}.name",
            f"buildpacks ({name}) come from a registry that this machine need not reach; use a Dockerfile.",
        )
    if name not in {DOCKER, f"{DOCKER}:latest"}:
        raise unimplemented(f"{path}.name", f"steps run {DOCKER} here, not {name}.")
    arguments = [_substituted(one, values) for one in _strings(step, "args", path)]
    command = command_of(arguments, path)
    variables: list[tuple[str, str]] = []
    for one in _strings(step, "env", path):
        key, sign, given = _substituted(one, values).partition("=")
        if not sign or not key:
            raise invalid(f"invalid {path}.env {one!r}: must be of the form KEY=VALUE")
        if key not in _VARIABLES:
            raise unimplemented(f"{path}.env", f"docker here takes {' and '.join(_VARIABLES)}, not {key}.")
        variables.append((key, given))
    folder: str = step.get("dir", "")
    if PurePosixPath(folder).is_absolute() or ".." in PurePosixPath(folder).parts:
        raise unimplemented(f"{path}.dir", f"{folder} is outside of the workspace; write it as seen from there.")
    for name in command.makes:
        if _with_tag(name) not in images:
            raise unimplemented(
                f"{path}.args", f"{name} is not in build.images: what is not pushed would stay on this machine."
            )
    return Task(arguments=arguments, environment=tuple(variables), folder=folder, reads=command.reads)


def _with_tag(image: str) -> str:
    return image if ":" in image.rpartition("/")[2] else f"{image}:latest"


def _images(images: Sequence[str], values: Mapping[str, str]) -> list[str]:
    if len(images) > _IMAGES:
        raise invalid(f"invalid build: {len(images)} images provided, the limit is {_IMAGES}")
    named = [_substituted(one, values) for one in images]
    for one in named:
        if not _IMAGE.fullmatch(one):
            raise invalid(f"invalid image name {one!r}: could not parse reference: {one}")
        if not _HERE.match(one):
            # Docker's store is this machine's: the name of somebody else's image would be taken from it.
            raise unimplemented("build.images", f"{one} is in no registry of this machine, to which images go here.")
    return named


def _substituted(text: str, values: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        key = found[1] or found[2]
        if key is None:
            return "$"
        if key not in values:
            raise invalid(
                f"invalid value for 'build.substitutions': key in the template {key!r} is not a valid built-in "
                "substitution"
            )
        return values[key]

    return _VARIABLE.sub(value, text)


def _strings(fields: Document, name: str, path: str) -> list[str]:
    found: list[str] = fields.get(name, [])
    if any("\0" in one for one in found):
        raise invalid(f"invalid {path}.{name}: a zero byte is no part of an argument")
    return found
