"""The resource `mcpfleet-build:index:Image`: an image that is rebuilt only when its content changes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from pulumi.runtime.rpc import UNKNOWN

from pulumi_mcpfleet.cloud_build.archive import ArchiveSource, content_hash, source_hash
from pulumi_mcpfleet.cloud_build.builds import BuildRunner, BuiltImage, Job
from pulumi_mcpfleet.cloud_build.errors import BuildError
from pulumi_mcpfleet.cloud_build.registry import ImageRegistry

TYPE: Final = "mcpfleet-build:index:Image"

Properties = dict[str, Any]

_REQUIRED: Final = ("project", "location", "bucket", "serviceAccount", "image", "context")
_OPTIONAL: Final = ("dockerfile", "inline", "buildArgs", "labels", "platform", "machineType", "timeout", "target")
_OUTPUTS: Final = ("digest", "ref", "build", "logUrl")
_REPLACING_INPUTS: Final = ("image", "project", "location")
"""A change of these replaces the resource: the new image is in another repository, and the old one is deleted."""


@dataclass(frozen=True)
class InputFailure:
    """A mistake in one input property."""

    property: str
    reason: str


def check(news: Properties) -> tuple[Properties, list[InputFailure]]:
    """Return the inputs with their content's hash added, and all mistakes in them."""
    failures = [InputFailure(name, f"{name} is missing") for name in _REQUIRED if not news.get(name)]
    failures += [
        InputFailure(name, f"{TYPE} has no property {name}")
        for name in news
        if name not in (*_REQUIRED, *_OPTIONAL, "contentHash")
    ]
    if failures:
        return news, failures
    content_inputs = [news.get(name) for name in ("context", "dockerfile", "inline", "buildArgs", "labels", "target")]
    if any(_is_unknown(value) for value in content_inputs):
        return {**news, "contentHash": UNKNOWN}, []
    try:
        job = _job(news)
        content = content_hash(source_hash(job.source), job.build_args, job.labels, job.stage)
    except BuildError as error:
        return news, [InputFailure("context", str(error))]
    return {**news, "contentHash": content}, []


def find_changes(olds: Properties, news: Properties) -> tuple[list[str], list[str]]:
    """Return the inputs that differ from the state, and those of them that replace the resource.

    The path of the folder doesn't count, so another checkout of the same content is not built again.
    """
    ignored = {"context", "dockerfile", "inline"}
    names = (*_REQUIRED, *_OPTIONAL, "contentHash")
    differing = [name for name in names if name not in ignored and olds.get(name) != news.get(name)]
    return differing, [name for name in differing if name in _REPLACING_INPUTS]


class ImageResource:
    """The operations on an image.

    Args:
        builds: Creates the runner of builds.
        registry: Creates the client of the image's registry.
    """

    def __init__(self, builds: Callable[[], BuildRunner], registry: Callable[[], ImageRegistry]) -> None:
        self._builds = builds
        self._registry = registry

    def create(self, news: Properties) -> Properties:
        """Build the image.

        Raises:
            BuildError: The image was not built.
        """
        return _state(news, self._builds().run(_job(news), str(news["contentHash"])))

    def update(self, olds: Properties, news: Properties) -> Properties:
        """Rebuild the image if its content has changed; otherwise only store the new inputs.

        Raises:
            BuildError: The image was not built.
        """
        reused = _reused_outputs(olds, news)
        return {**news, **reused} if reused else self.create(news)

    def preview(self, olds: Properties, news: Properties) -> Properties:
        """Return the resource's properties as far as they are known before the build."""
        return {**news, **(_reused_outputs(olds, news) or dict.fromkeys(_OUTPUTS, UNKNOWN))}

    def exists(self, state: Mapping[str, Any]) -> bool:
        """Whether the image is still in its registry; true if the registry doesn't tell."""
        return self._registry().has_image(str(state["image"]), str(state["digest"])) is not False

    def delete(self, state: Mapping[str, Any]) -> None:
        """Delete the image from its registry."""
        if state.get("digest"):
            self._registry().delete(str(state["image"]), str(state["digest"]))


def _reused_outputs(olds: Properties, news: Properties) -> Properties:
    """Return the outputs of the last build if the content is unchanged, else an empty dict."""
    is_unchanged = all(olds.get(name) == news.get(name) for name in ("contentHash", "platform"))
    if not is_unchanged or news.get("contentHash") == UNKNOWN:
        return {}
    return {name: olds[name] for name in _OUTPUTS if name in olds} if olds.get("digest") else {}


def _state(news: Properties, built: BuiltImage) -> Properties:
    return {
        **news,
        "digest": built.digest,
        "ref": f"{news['image']}@{built.digest}",
        "build": built.build,
        "logUrl": built.log_url,
    }


def _source(news: Properties) -> ArchiveSource:
    return ArchiveSource(
        folder=news["context"], dockerfile=news.get("dockerfile") or "Dockerfile", inline=news.get("inline") or ""
    )


def _job(news: Properties) -> Job:
    return Job(
        project=news["project"],
        location=news["location"],
        bucket=news["bucket"],
        account=news["serviceAccount"],
        image=news["image"],
        source=_source(news),
        build_args=news.get("buildArgs") or {},
        labels=news.get("labels") or {},
        platform=news.get("platform") or "linux/amd64",
        machine=news.get("machineType") or "",
        stage=news.get("target") or "",
        timeout=int(news.get("timeout") or 1200),
    )


def _is_unknown(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_is_unknown(inner) for inner in cast("dict[str, Any]", value).values())
    return value == UNKNOWN
