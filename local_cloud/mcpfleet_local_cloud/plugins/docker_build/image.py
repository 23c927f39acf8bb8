"""docker-build:index:Image: build, push, and know when to build again; and the emulated provider that has it.

Its properties are those of pulumi-docker-build 0.0.22 (provider/internal/image.go).
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, cast

import httpx2

from mcpfleet_local_cloud.plugins.call import Call, CancelledError, CheckFailure, ProviderError
from mcpfleet_local_cloud.plugins.checking import Checker
from mcpfleet_local_cloud.plugins.diffing import Change, diff
from mcpfleet_local_cloud.plugins.docker_build.builder import Build, build
from mcpfleet_local_cloud.plugins.docker_build.context import context_hash, is_remote, plain
from mcpfleet_local_cloud.plugins.docker_build.dockerfile import mistake
from mcpfleet_local_cloud.plugins.docker_build.registry import LocalImages, Login, login_for, parse
from mcpfleet_local_cloud.plugins.properties import Field, block, blocks, boolean, mapping, text, texts
from mcpfleet_local_cloud.plugins.resources import CheckInput, Difference, Found, Resource
from mcpfleet_local_cloud.plugins.servicer import Provider
from mcpfleet_local_cloud.plugins.values import UNKNOWN, Properties, Secret, has_unknown, items, table
from pulumi_mcpfleet.cloud_build.registry import Registry

_NETWORKS: Final = ("default", "host", "none")

IMAGE: Final[tuple[Field, ...]] = (
    boolean("push", required=True),
    texts("addHosts"),
    boolean("exec"),
    mapping("buildArgs"),
    boolean("buildOnPreview", default=True),
    block("context", [text("location", required=True)]),
    block("dockerfile", [text("inline"), text("location")]),
    texts("ignoreSecretsInDiffCalculation"),
    mapping("labels"),
    boolean("load"),
    text("network", default="default", choices=_NETWORKS),
    boolean("noCache"),
    texts("platforms"),
    boolean("pull"),
    blocks("registries", [text("address", required=True), text("username"), text("password", secret=True)]),
    mapping("secrets", secret=True),
    texts("tags"),
    text("target"),
    text("contextHash", output=True),
    text("digest", output=True),
    text("ref", output=True),
)
REFUSED: Final = ("builder", "cacheFrom", "cacheTo", "exec", "exports", "ssh")  # real, but not in the emulated provider
UNCOMPARED: Final = frozenset({"ignoreSecretsInDiffCalculation"})


_PASSWORD: Final = re.compile(r"registries\[\d+\]\.password")


class Image(Resource[None]):
    """A container image, built by BuildKit and pushed to the registries that its tags name.

    Its id is the first digest, as in the real plugin. Docker keeps a local copy of the newest digest, so that a runtime
    on this machine need not pull it again; the copy goes with the resource.

    Args:
        transport: what carries requests to registries; the network when None.
    """

    type_name: ClassVar[str] = "docker-build:index:Image"
    package: ClassVar[str] = "docker-build"
    fields = IMAGE

    def __init__(self, transport: httpx2.BaseTransport | None = None) -> None:
        self._transport = transport

    def check(self, config: None, asked: CheckInput) -> tuple[Properties, list[CheckFailure]]:
        """The inputs with their defaults; what the emulated provider lacks is refused by name."""
        refused = [name for name in REFUSED if asked.news.get(name)]
        known = {name: value for name, value in asked.news.items() if name not in REFUSED}
        inputs, failures = super().check(
            config, CheckInput(name=asked.name, olds=asked.olds, news=known, seed=asked.seed)
        )
        lacks = [
            CheckFailure(f"{name}: the emulated docker-build provider does not have this property", name)
            for name in refused
        ]
        return _in_full(inputs), [*lacks, *failures]

    def check_more(self, config: None, inputs: Properties, checker: Checker) -> None:
        """Contexts exist, Dockerfiles parse, tags are references, one platform."""
        context = _context(inputs)
        if context is not UNKNOWN and not is_remote(context) and not Path(context).is_dir():
            checker.failures.append(CheckFailure(f'"{context}": not a valid directory or URL', "context.location"))
        else:
            self._check_dockerfile(inputs, context, checker)
        for index, tag in enumerate(items(inputs.get("tags"))):
            if tag is not UNKNOWN and parse(tag) is None:
                checker.failures.append(CheckFailure(f"invalid reference format: {tag}", f"tags[{index}]"))
        if len(items(inputs.get("platforms"))) > 1:
            checker.failures.append(
                CheckFailure("the emulated docker-build provider builds one platform at a time", "platforms")
            )
        if inputs.get("push") is True and inputs.get("tags") in (None, []):
            checker.failures.append(CheckFailure("at least one tag is needed when pushing to a registry", "tags"))

    def _check_dockerfile(self, inputs: Properties, context: Any, checker: Checker) -> None:
        if has_unknown(inputs.get("dockerfile")):
            return
        dockerfile = table(inputs.get("dockerfile"))
        if dockerfile.get("inline") and dockerfile.get("location"):
            checker.failures.append(CheckFailure('only specify "file" or "inline", not both', "dockerfile"))
            return
        if dockerfile.get("inline"):
            wrong, where = mistake(dockerfile["inline"]), "dockerfile.inline"
        else:
            path, where = _dockerfile(inputs), "dockerfile.location"
            if path is UNKNOWN or is_remote(str(path)) or is_remote(str(context)):
                return
            try:
                wrong = mistake(plain(Path(path), Path(context)).decode("utf-8", "replace"))
            except (OSError, RuntimeError) as error:
                error = error if isinstance(error, OSError) else OSError(str(error))
                wrong = f"open {path}: {(error.strerror or str(error)).lower()}"
        if wrong:
            checker.failures.append(CheckFailure(wrong, where))

    def diff(self, config: None, olds: Properties, news: Properties) -> Difference:
        """Every difference is an update; a new registry password alone is none."""
        changes = {
            path: change
            for path, change in diff(IMAGE, olds, {**news, "secrets": _compared_secrets(olds, news)}).items()
            if path not in UNCOMPARED and not _PASSWORD.fullmatch(path)
        }
        exported = news.get("push") or news.get("load")
        if (news.get("pull") and exported) or self._hash(news) != olds.get("contextHash"):
            changes["contextHash"] = Change("update")
        return Difference(changes)

    def create(self, config: None, call: Call, name: str, news: Properties, *, preview: bool) -> Found:
        """Build and push."""
        state = self._made(call, news, olds={}, preview=preview)
        digest = state.get("digest")
        return Found(digest if isinstance(digest, str) and digest else name, state)

    def update(
        self,
        config: None,
        call: Call,
        resource_id: str,
        olds: Properties,
        news: Properties,
        *,
        preview: bool,
    ) -> Properties:
        """Build again and push; the old digest stays in the registry, its local copy goes."""
        return self._made(call, news, olds=olds, preview=preview)

    def read(self, config: None, call: Call, resource_id: str, state: Properties) -> Found | None:
        """See whether the registry still has the digest under each tag."""
        if not state:
            raise ProviderError("an image cannot be imported: run an update, which builds it or finds it in the cache")
        digest, tags = state.get("digest"), items(state.get("tags"))
        if not state.get("push") or not digest:
            return Found(resource_id, state)
        registry = self._registry(state)
        held = {tag: registry.has(name, digest) if (name := _hosted(tag)) else None for tag in tags}
        if any(there is None for there in held.values()):
            call.log("warning", "unable to verify image tags, leaving state unchanged")
            return Found(resource_id, state)
        kept = [tag for tag, there in held.items() if there]
        if tags and not kept:
            return None
        return Found(resource_id, _marked({**state, "tags": kept}))

    def delete(self, config: None, call: Call, resource_id: str, olds: Properties) -> None:
        """Delete the manifest in each registry, and the local copies."""
        tags = items(olds.get("tags"))
        if olds.get("digest"):
            registry = self._registry(olds)
            for name in filter(None, map(_hosted, tags)):
                registry.delete(name, olds["digest"])
        images = LocalImages()
        try:
            images.forget(_names(tags))
        finally:
            images.close()

    def _registry(self, properties: Properties) -> Registry:
        logins = _logins(properties)

        def login(host: str) -> tuple[str, str] | None:
            found = login_for(logins, host)
            return (found.username, found.password) if found else None

        return Registry(login, self._transport)

    def inputs(self, old_inputs: Properties, state: Properties) -> Properties:
        """The program's inputs; a registry cannot tell anything about them but the tags that are gone."""
        return _marked(
            {**old_inputs, "tags": state["tags"]} if "tags" in old_inputs and "tags" in state else old_inputs
        )

    def _made(self, call: Call, news: Properties, *, olds: Properties, preview: bool) -> Properties:
        tags: Sequence[Any] = items(news.get("tags"))
        first = next((tag for tag in tags if tag is not UNKNOWN), "")
        state: Properties = {**news, "contextHash": self._hash(news), "ref": first, "digest": ""}
        if preview:
            self._previewed(call, news)
            return _marked({**state, "ref": UNKNOWN, "digest": UNKNOWN})
        if not news.get("push") and not news.get("load"):
            call.log(
                "warning",
                "No exports were specified so the build will only remain in the local build cache. Use `push` to "
                "upload the image to a registry.",
            )
        images = LocalImages()
        try:
            before = images.tagged([*items(olds.get("tags")), *tags])
            image_id = build(call, _build(news, tags if news.get("push") or news.get("load") else ()))
            if news.get("push"):
                try:
                    digests = [images.push(call, tag, _logins(news)) for tag in tags]
                except (ProviderError, CancelledError):
                    images.untag(tags, image_id)  # what no registry has is not to look as if it had
                    raise
                state |= {"digest": digests[0], "ref": _pinned(tags[0], digests[0])}
            elif not news.get("load"):
                images.remove_unnamed(image_id)
            images.forget(_names([*items(olds.get("tags")), *tags]), keep=image_id)
            for older in {*before} - {image_id}:
                images.remove_unnamed(older)  # what the tags named before, unless a container still uses it
        finally:
            images.close()
        return _marked(state)

    def _previewed(self, call: Call, news: Properties) -> None:
        """A preview builds too, so that a broken image is found before it is needed; nothing is kept of it."""
        if news.get("buildOnPreview") is False:
            return
        if has_unknown(news):
            call.log("warning", "Skipping preview build because some inputs are unknown.")
            return
        images = LocalImages()
        try:
            images.remove_unnamed(build(call, _build(news, ())))
        finally:
            images.close()

    def _hash(self, inputs: Properties) -> Any:
        context, dockerfile = _context(inputs), _dockerfile(inputs)
        if context is UNKNOWN or dockerfile is UNKNOWN:
            return UNKNOWN
        return context_hash(context, dockerfile, _inline(inputs))


def _in_full(inputs: Properties) -> Properties:
    """The inputs with what the real plugin's Check adds to them: the empty values that its arguments cannot lack."""
    full: Properties = {"exec": False, "load": False, "noCache": False, "pull": False, "target": "", **inputs}
    if isinstance(inputs.get("dockerfile"), dict):
        full["dockerfile"] = {"inline": "", "location": "", **inputs["dockerfile"]}
    return full


def _context(inputs: Properties) -> Any:
    context = inputs.get("context")
    return UNKNOWN if context is UNKNOWN else table(context).get("location") or "."


def _dockerfile(inputs: Properties) -> Any:
    """The Dockerfile's path: `Dockerfile` in the context unless the program says otherwise; empty when inline."""
    dockerfile, context = table(inputs.get("dockerfile")), _context(inputs)
    if has_unknown(inputs.get("dockerfile")):
        return UNKNOWN
    if dockerfile.get("inline"):
        return ""
    if dockerfile.get("location"):
        return dockerfile["location"]
    if context is UNKNOWN:
        return UNKNOWN
    return "" if is_remote(context) else str(Path(context) / "Dockerfile")


def _inline(inputs: Properties) -> str:
    text = table(inputs.get("dockerfile")).get("inline")
    return text if isinstance(text, str) else ""


def _logins(properties: Properties) -> list[Login]:
    return [
        Login(str(one["address"]), str(one.get("username") or ""), str(one.get("password") or ""))
        for one in items(properties.get("registries"))
    ]


def _hosted(tag: Any) -> str | None:
    """The name of an image that says its registry; none of another, which no registry can be asked for."""
    reference = parse(tag) if isinstance(tag, str) else None
    return reference.name if reference and reference.host else None


def _names(tags: Sequence[Any]) -> list[str]:
    references = [parse(tag) for tag in tags if isinstance(tag, str)]
    return [reference.name for reference in references if reference is not None]


def _pinned(tag: str, digest: str) -> str:
    """`name:tag@digest`; only a fully qualified name can be pinned."""
    reference = parse(tag)
    if reference is None or not reference.host:
        return tag
    return f"{reference.name}:{reference.tag}@{digest}"


def _build(news: Properties, tags: Sequence[str]) -> Build:
    platforms = items(news.get("platforms"))
    return Build(
        context=_context(news),
        dockerfile=_dockerfile(news),
        inline=_inline(news),
        tags=tags,
        build_args=news.get("buildArgs") or {},
        labels=news.get("labels") or {},
        secrets=news.get("secrets") or {},
        hosts=items(news.get("addHosts")),
        platform=platforms[0] if platforms else "",
        target=news.get("target") or "",
        network=news.get("network") or "default",
        no_cache=bool(news.get("noCache")),
        pull=bool(news.get("pull")),
    )


def _compared_secrets(olds: Properties, news: Properties) -> Any:
    """The new secrets, with the old values of those that the program does not want compared."""
    before, now = olds.get("secrets"), news.get("secrets")
    if not isinstance(before, dict) or not isinstance(now, dict):
        return cast("Any", now)
    ignored = set(items(news.get("ignoreSecretsInDiffCalculation")))
    kept = table(before)
    return {key: kept[key] if key in ignored and key in kept else value for key, value in table(now).items()}


def _marked(properties: Properties) -> Properties:
    """The properties with what must be encrypted in the state marked, whatever the program did."""
    marked = dict(properties)
    if isinstance(marked.get("secrets"), dict):
        marked["secrets"] = Secret(marked["secrets"])
    if isinstance(marked.get("registries"), list):
        marked["registries"] = [
            {**table(one), "password": Secret(table(one)["password"])} if table(one).get("password") else one
            for one in items(marked["registries"])
        ]
    return marked


_KEYS: Final = frozenset({"host", "version", "pluginDownloadURL", "__internal"})


class DockerBuildProvider(Provider):
    """The `docker-build` plugin."""

    package = "docker-build"
    version = "0.0.22"

    def __init__(self) -> None:
        super().__init__([Image()])

    def check_configuration(self, name: str, news: Properties) -> list[CheckFailure]:
        """Every key that the emulated provider does not have."""
        return [
            CheckFailure(f"docker-build:{key}: the emulated provider does not have this setting", key)
            for key in news
            if key not in _KEYS
        ]

    def implied(self) -> dict[str, str]:
        """Which Docker, as the real plugin notes it."""
        return {"host": os.environ.get("DOCKER_HOST", "")}

    def configuration(self, news: Properties) -> None:
        """Docker is found through the environment.

        Raises:
            ProviderError: another Docker host is configured.
        """
        if news.get("host", "") not in ("", os.environ.get("DOCKER_HOST")):
            raise ProviderError("docker-build:host: the emulated provider finds Docker by the environment alone")
