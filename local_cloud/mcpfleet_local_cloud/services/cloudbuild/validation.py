"""What a `Build` may say here: Google's own refusals, and by name what this machine does not honour.

Facts: the REST reference of cloudbuild.googleapis.com v1 (projects.builds), and the sentences that users report.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from mcpfleet_local_cloud.rest import wire
from mcpfleet_local_cloud.rest.errors import invalid, unimplemented
from mcpfleet_local_cloud.rest.wire import as_list, as_object
from mcpfleet_local_cloud.services.cloudbuild.docker import command_of
from mcpfleet_local_cloud.state.store import Document

DOCKER: Final = "gcr.io/cloud-builders/docker"
_PACKS: Final = ("gcr.io/k8s-skaffold/pack", "gcr.io/buildpacks/", "buildpacksio/pack")
_FIELDS: Final = frozenset({"source", "steps", "images", "serviceAccount", "timeout", "queueTtl", "tags", "options"})
_OUTPUTS: Final = frozenset(
    {
        *("name", "id", "projectId", "status", "statusDetail", "results", "createTime", "startTime", "finishTime"),
        *("sourceProvenance", "buildTriggerId", "logUrl", "timing", "approval", "failureInfo", "warnings"),
    }
)
_ELSEWHERE: Final = {
    "logsBucket": "write options.logging: CLOUD_LOGGING_ONLY.",
    "substitutions": "write the values themselves.",
    "secrets": "there is no Cloud KMS here.",
    "availableSecrets": "steps get no secrets here.",
    "artifacts": "images are the only artifacts here.",
    "gitConfig": "a source comes from Cloud Storage here.",
    "dependencies": "a source comes from Cloud Storage here.",
}
_STEP: Final = frozenset({"id", "name", "args", "env", "dir", "waitFor"})
_STEP_ELSEWHERE: Final = frozenset(
    {
        *("entrypoint", "script", "secretEnv", "volumes", "timeout", "allowFailure", "allowExitCodes"),
        *("automapSubstitutions", "results", "status", "timing", "pullTiming", "exitCode"),
    }
)
_OPTIONS: Final = frozenset({"logging", "machineType", "logStreamingOption", "substitutionOption"})
_OPTIONS_ELSEWHERE: Final = {
    "defaultLogsBucketBehavior": "write options.logging: CLOUD_LOGGING_ONLY.",
    "requestedVerifyOption": "builds are not signed here.",
    "sourceProvenanceHash": "sources are not summed up here.",
    "diskSizeGb": "a build has this machine's disk.",
    "pool": "there are no worker pools here.",
    "workerPool": "there are no worker pools here.",
    "env": "write it in the step.",
    "secretEnv": "steps get no secrets here.",
    "volumes": "steps share /workspace alone here.",
    "automapSubstitutions": "there are no substitutions here.",
    "dynamicSubstitutions": "there are no substitutions here.",
    "enableStructuredLogging": "lines are text here.",
    "pubsubTopic": "there is no Pub/Sub here.",
}
MACHINES: Final = ("UNSPECIFIED", "N1_HIGHCPU_8", "N1_HIGHCPU_32", "E2_HIGHCPU_8", "E2_HIGHCPU_32", "E2_MEDIUM")
"""Google's names; here each of them is this machine."""
_LOGGING: Final = (*("LOGGING_UNSPECIFIED", "LEGACY", "GCS_ONLY", "STACKDRIVER_ONLY", "CLOUD_LOGGING_ONLY", "NONE"),)
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
    wire.only(body, _FIELDS | _OUTPUTS | _ELSEWHERE.keys(), "build")
    for field, advice in _ELSEWHERE.items():
        if body.get(field):
            raise unimplemented(f"build.{field}", advice)
    account = wire.text(body, "serviceAccount", "build")
    options = _options(body, account)
    if not account:
        raise unimplemented("build.serviceAccount", "name the account; there is no default one for builds here.")
    found = _ACCOUNT.fullmatch(account)
    if found is None:
        raise invalid(f"invalid build.service_account {account!r}: want projects/PROJECT/serviceAccounts/ACCOUNT")
    tags: Any = body.get("tags") or []
    if not isinstance(tags, list) or any(
        not isinstance(one, str) or not _TAG.fullmatch(one) for one in as_list(tags) or ()
    ):
        raise invalid("invalid build.tags: must be valid Docker tags")
    images = _images(body.get("images"), values)
    return Order(
        account=found[2],
        timeout=_seconds(body, "timeout") or _DEFAULT,
        logs=options != "NONE",
        source=_source(body.get("source")),
        steps=_steps(body.get("steps"), values, {_with_tag(one) for one in images}),
        images=images,
    )


def _options(body: Document, account: str) -> str:
    options = _object(body.get("options") or {}, "build.options")
    wire.only(options, _OPTIONS | _OPTIONS_ELSEWHERE.keys(), "build.options")
    for field, advice in _OPTIONS_ELSEWHERE.items():
        if options.get(field):
            raise unimplemented(f"build.options.{field}", advice)
    for field, choices in (("machineType", MACHINES), ("logging", _LOGGING)):
        value: Any = options.get(field)
        if value and value not in choices:
            raise invalid(f"Invalid value at 'build.options.{field}' (TYPE_ENUM), {value!r}")
    logging = str(options.get("logging") or "")
    if account and logging not in {"CLOUD_LOGGING_ONLY", "STACKDRIVER_ONLY", "NONE"}:
        raise invalid(_NO_LOGS)
    return logging


def _seconds(fields: Document, name: str) -> float:
    value = wire.text(fields, name, "build")
    found = _DURATION.fullmatch(value) if value else None
    if value and (found is None or not 0 < float(value[:-1]) <= _LONGEST):
        raise invalid(f"invalid build.{name} {value!r}: must be a duration of at most {_LONGEST}s, such as '600s'")
    return float(value[:-1]) if value else 0


def _source(value: Any) -> tuple[str, str, str] | None:
    if value is None:
        return None
    source = _object(value, "build.source")
    wire.only(
        source,
        {
            "storageSource",
            "repoSource",
            "gitSource",
            "storageSourceManifest",
            "connectedRepository",
            "developerConnectConfig",
        },
        "build.source",
    )
    for field in source.keys() - {"storageSource"}:
        raise unimplemented(f"build.source.{field}", "a source comes from Cloud Storage here.")
    storage = _object(source.get("storageSource"), "build.source.storageSource")
    path = "build.source.storageSource"
    wire.only(storage, {"bucket", "object", "generation", "sourceFetcher"}, path)
    if storage.get("sourceFetcher") not in (None, "", "SOURCE_FETCHER_UNSPECIFIED", "GSUTIL"):
        raise unimplemented(f"{path}.sourceFetcher", "a source is fetched in one way here.")
    bucket, name = (wire.text(storage, field, path, required=True) for field in ("bucket", "object"))
    if not name.endswith((".tar.gz", ".tgz", ".zip")):
        raise invalid(f"invalid build.source: {name} must be a .tar.gz, .tgz or .zip archive")
    if name.endswith(".zip"):
        raise unimplemented(f"{path}.object", "archives are .tar.gz here.")
    generation = str(storage.get("generation") or "")
    if generation and not generation.isdecimal():
        raise invalid(f"Invalid value at '{path}.generation' (TYPE_INT64), {generation!r}")
    return bucket, name, generation


def _steps(value: Any, values: Mapping[str, str], images: Collection[str]) -> list[Task]:
    steps = as_list(value or [])
    if not steps:
        raise invalid("invalid build: no build steps provided")
    if len(steps) > _STEPS:
        raise invalid(f"invalid build: {len(steps)} build steps provided, the limit is {_STEPS}")
    return [
        _step(_object(step, f"build.steps[{index}]"), f"build.steps[{index}]", values, images)
        for index, step in enumerate(steps)
    ]


def _step(step: Document, path: str, values: Mapping[str, str], images: Collection[str]) -> Task:
    wire.only(step, _STEP | _STEP_ELSEWHERE, path)
    name = wire.text(step, "name", path, required=True)
    if name.startswith(_PACKS):
        raise unimplemented(
            f"{path}.name",
            f"buildpacks ({name}) come from a registry that this machine need not reach; use a Dockerfile.",
        )
    if name not in {DOCKER, f"{DOCKER}:latest"}:
        raise unimplemented(f"{path}.name", f"steps run {DOCKER} here, not {name}.")
    for field in _STEP_ELSEWHERE:
        if step.get(field):
            raise unimplemented(f"{path}.{field}", "a step is docker with its arguments here.")
    if step.get("waitFor"):
        raise unimplemented(f"{path}.waitFor", "steps run one after another here.")
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
    folder = wire.text(step, "dir", path)
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


def _images(value: Any, values: Mapping[str, str]) -> list[str]:
    images = _strings({"images": value or []}, "images", "build")
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


def _object(value: Any, path: str) -> Document:
    found = as_object(value)
    if found is None:
        raise invalid(f"Invalid value at '{path}' (TYPE_MESSAGE): must be an object.")
    return found


def _strings(fields: Document, name: str, path: str) -> list[str]:
    found = as_list(fields.get(name) or [])
    if found is None or not all(isinstance(one, str) and "\0" not in one for one in found):
        raise invalid(f"Invalid value at '{path}.{name}' (TYPE_STRING): must be a list of strings.")
    return [str(one) for one in found]
