"""The resource `mcpfleet-build:index:Image`: an image, built anew when its content changes, and only then."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from pulumi.runtime.rpc import UNKNOWN

from pulumi_mcpfleet.cloud_build.archive import ArchiveSource, content_hash, source_hash
from pulumi_mcpfleet.cloud_build.builds import Builds, Built, Job
from pulumi_mcpfleet.cloud_build.errors import BuildError
from pulumi_mcpfleet.cloud_build.registry import Registry

TYPE: Final = "mcpfleet-build:index:Image"

Properties = dict[str, Any]

_REQUIRED: Final = ("project", "location", "bucket", "serviceAccount", "image", "context")
_OPTIONAL: Final = ("dockerfile", "inline", "buildArgs", "labels", "platform", "machineType", "timeout", "target")
_MADE: Final = ("digest", "ref", "build", "logUrl")
_REPLACING: Final = ("image", "project", "location")
"""Another repository is another image; the old one goes with the old resource."""


@dataclass(frozen=True)
class Failure:
    """A mistake in one input."""

    property: str
    reason: str


def check(news: Properties) -> tuple[Properties, list[Failure]]:
    """The inputs with the hash of their content, and every mistake in them."""
    failures = [Failure(name, f"{name} is missing") for name in _REQUIRED if not news.get(name)]
    failures += [
        Failure(name, f"{TYPE} has no property {name}")
        for name in news
        if name not in (*_REQUIRED, *_OPTIONAL, "contentHash")
    ]
    if failures:
        return news, failures
    said = [news.get(name) for name in ("context", "dockerfile", "inline", "buildArgs", "labels", "target")]
    if any(_unknown(value) for value in said):
        return {**news, "contentHash": UNKNOWN}, []
    try:
        job = _job(news)
        content = content_hash(source_hash(job.source), job.build_args, job.labels, job.stage)
    except BuildError as error:
        return news, [Failure("context", str(error))]
    return {**news, "contentHash": content}, []


def changes(olds: Properties, news: Properties) -> tuple[list[str], list[str]]:
    """Which inputs differ from those of the state, and which of them make it another image.

    The folder's place is none of them: another person's checkout of the same content builds nothing.
    """
    ignored = {"context", "dockerfile", "inline"}
    names = (*_REQUIRED, *_OPTIONAL, "contentHash")
    differing = [name for name in names if name not in ignored and olds.get(name) != news.get(name)]
    return differing, [name for name in differing if name in _REPLACING]


class Image:
    """What is done to an image.

    Args:
        builds: Builds.
        registry: Knows what is there.
    """

    def __init__(self, builds: Callable[[], Builds], registry: Callable[[], Registry]) -> None:
        self._builds = builds
        self._registry = registry

    def create(self, news: Properties) -> Properties:
        """Build it.

        Raises:
            BuildError: It was not built.
        """
        return _state(news, self._builds().run(_job(news), str(news["contentHash"])))

    def update(self, olds: Properties, news: Properties) -> Properties:
        """Build it anew where its content has changed; else take over how it would be built.

        Raises:
            BuildError: It was not built.
        """
        made = _made(olds, news)
        return {**news, **made} if made else self.create(news)

    def planned(self, olds: Properties, news: Properties) -> Properties:
        """What is known of it before it is built."""
        return {**news, **(_made(olds, news) or dict.fromkeys(_MADE, UNKNOWN))}

    def exists(self, state: Mapping[str, Any]) -> bool:
        """Whether it is still in its registry; true where that can't be found out."""
        return self._registry().has(str(state["image"]), str(state["digest"])) is not False

    def delete(self, state: Mapping[str, Any]) -> None:
        """Delete it from its registry."""
        if state.get("digest"):
            self._registry().delete(str(state["image"]), str(state["digest"]))


def _made(olds: Properties, news: Properties) -> Properties:
    """What the last build of the same content has made; empty where there is none."""
    same = all(olds.get(name) == news.get(name) for name in ("contentHash", "platform"))
    if not same or news.get("contentHash") == UNKNOWN:
        return {}
    return {name: olds[name] for name in _MADE if name in olds} if olds.get("digest") else {}


def _state(news: Properties, built: Built) -> Properties:
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


def _unknown(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_unknown(one) for one in cast("dict[str, Any]", value).values())
    return value == UNKNOWN
