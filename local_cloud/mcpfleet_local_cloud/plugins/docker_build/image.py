"""docker-build:index:Image, which builds and pushes images, and the emulated provider for it.

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
from mcpfleet_local_cloud.plugins.docker_build.builder import BuildOptions, build
from mcpfleet_local_cloud.plugins.docker_build.context import hash_context, is_remote, read_plain_file
from mcpfleet_local_cloud.plugins.docker_build.dockerfile import find_mistake
from mcpfleet_local_cloud.plugins.docker_build.registry import LocalImages, Login, find_login, parse_reference
from mcpfleet_local_cloud.plugins.properties import Field, block, blocks, boolean, mapping, text, texts
from mcpfleet_local_cloud.plugins.resources import CheckInput, Resource, ResourceDiff, ResourceState
from mcpfleet_local_cloud.plugins.servicer import Provider
from mcpfleet_local_cloud.plugins.values import UNKNOWN, Properties, Secret, as_dict, as_list, has_unknown
from pulumi_mcpfleet.cloud_build.registry import ImageRegistry

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
UNSUPPORTED: Final = (
    "builder",
    "cacheFrom",
    "cacheTo",
    "exec",
    "exports",
    "ssh",
)  # properties of the real provider only
UNCOMPARED: Final = frozenset({"ignoreSecretsInDiffCalculation"})


_PASSWORD: Final = re.compile(r"registries\[\d+\]\.password")


class Image(Resource[None]):
    """A container image, built by BuildKit and pushed to the registries that its tags name.

    Its id is the first digest, as in the real plugin. Docker keeps a local copy of the newest digest, so that a runtime
    on this machine doesn't have to pull it; deleting the resource deletes the copy.

    Args:
        transport: sends the requests to registries; None for the network.
    """

    type_name: ClassVar[str] = "docker-build:index:Image"
    package: ClassVar[str] = "docker-build"
    fields = IMAGE

    def __init__(self, transport: httpx2.BaseTransport | None = None) -> None:
        self._transport = transport

    def check(self, config: None, request: CheckInput) -> tuple[Properties, list[CheckFailure]]:
        """The inputs with their defaults, and all mistakes in them, among them properties of the real provider only."""
        names = [name for name in UNSUPPORTED if request.news.get(name)]
        supported = {name: value for name, value in request.news.items() if name not in UNSUPPORTED}
        inputs, failures = super().check(
            config, CheckInput(name=request.name, olds=request.olds, news=supported, seed=request.seed)
        )
        unsupported = [
            CheckFailure(f"{name}: the emulated docker-build provider does not have this property", name)
            for name in names
        ]
        return _fill_defaults(inputs), [*unsupported, *failures]

    def check_rules(self, config: None, inputs: Properties, checker: Checker) -> None:
        """Check that the context exists, the Dockerfile parses, tags are valid, and there is at most one platform."""
        context = _context_location(inputs)
        if context is not UNKNOWN and not is_remote(context) and not Path(context).is_dir():
            checker.failures.append(CheckFailure(f'"{context}": not a valid directory or URL', "context.location"))
        else:
            self._check_dockerfile(inputs, context, checker)
        for index, tag in enumerate(as_list(inputs.get("tags"))):
            if tag is not UNKNOWN and parse_reference(tag) is None:
                checker.failures.append(CheckFailure(f"invalid reference format: {tag}", f"tags[{index}]"))
        if len(as_list(inputs.get("platforms"))) > 1:
            checker.failures.append(
                CheckFailure("the emulated docker-build provider builds one platform at a time", "platforms")
            )
        if inputs.get("push") is True and inputs.get("tags") in (None, []):
            checker.failures.append(CheckFailure("at least one tag is needed when pushing to a registry", "tags"))

    def _check_dockerfile(self, inputs: Properties, context: Any, checker: Checker) -> None:
        if has_unknown(inputs.get("dockerfile")):
            return
        dockerfile = as_dict(inputs.get("dockerfile"))
        if dockerfile.get("inline") and dockerfile.get("location"):
            checker.failures.append(CheckFailure('only specify "file" or "inline", not both', "dockerfile"))
            return
        if dockerfile.get("inline"):
            wrong, property_path = find_mistake(dockerfile["inline"]), "dockerfile.inline"
        else:
            path, property_path = _dockerfile_path(inputs), "dockerfile.location"
            if path is UNKNOWN or is_remote(str(path)) or is_remote(str(context)):
                return
            try:
                wrong = find_mistake(read_plain_file(Path(path), Path(context)).decode("utf-8", "replace"))
            except (OSError, RuntimeError) as error:
                error = error if isinstance(error, OSError) else OSError(str(error))
                wrong = f"open {path}: {(error.strerror or str(error)).lower()}"
        if wrong:
            checker.failures.append(CheckFailure(wrong, property_path))

    def diff(self, config: None, olds: Properties, news: Properties) -> ResourceDiff:
        """The changes, all of which are updates; a new registry password alone is no change."""
        changes = {
            path: change
            for path, change in diff(IMAGE, olds, {**news, "secrets": _secrets_to_compare(olds, news)}).items()
            if path not in UNCOMPARED and not _PASSWORD.fullmatch(path)
        }
        exported = news.get("push") or news.get("load")
        if (news.get("pull") and exported) or self._hash_context(news) != olds.get("contextHash"):
            changes["contextHash"] = Change("update")
        return ResourceDiff(changes)

    def create(self, config: None, call: Call, name: str, news: Properties, *, preview: bool) -> ResourceState:
        """Build the image and push it."""
        state = self._build_and_push(call, news, olds={}, preview=preview)
        digest = state.get("digest")
        return ResourceState(digest if isinstance(digest, str) and digest else name, state)

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
        """Build the image again and push it; the old digest stays in the registry, its local copy is deleted."""
        return self._build_and_push(call, news, olds=olds, preview=preview)

    def read(self, config: None, call: Call, resource_id: str, state: Properties) -> ResourceState | None:
        """The state with the tags under which the registry still has the digest; None if it has none."""
        if not state:
            raise ProviderError("an image cannot be imported: run an update, which builds it or finds it in the cache")
        digest, tags = state.get("digest"), as_list(state.get("tags"))
        if not state.get("push") or not digest:
            return ResourceState(resource_id, state)
        registry = self._open_registry(state)
        has_digest = {tag: registry.has_image(name, digest) if (name := _hosted_name(tag)) else None for tag in tags}
        if any(is_present is None for is_present in has_digest.values()):
            call.log("warning", "unable to verify image tags, leaving state unchanged")
            return ResourceState(resource_id, state)
        present_tags = [tag for tag, is_present in has_digest.items() if is_present]
        if tags and not present_tags:
            return None
        return ResourceState(resource_id, _mark_secrets({**state, "tags": present_tags}))

    def delete(self, config: None, call: Call, resource_id: str, olds: Properties) -> None:
        """Delete the manifest in each registry, and the local copies."""
        tags = as_list(olds.get("tags"))
        if olds.get("digest"):
            registry = self._open_registry(olds)
            for name in filter(None, map(_hosted_name, tags)):
                registry.delete(name, olds["digest"])
        images = LocalImages()
        try:
            images.remove_copies(_image_names(tags))
        finally:
            images.close()

    def _open_registry(self, properties: Properties) -> ImageRegistry:
        logins = _read_logins(properties)

        def login(host: str) -> tuple[str, str] | None:
            match = find_login(logins, host)
            return (match.username, match.password) if match else None

        return ImageRegistry(login, self._transport)

    def read_inputs(self, old_inputs: Properties, state: Properties) -> Properties:
        """The old inputs, without the tags that the registry doesn't have anymore."""
        return _mark_secrets(
            {**old_inputs, "tags": state["tags"]} if "tags" in old_inputs and "tags" in state else old_inputs
        )

    def _build_and_push(self, call: Call, news: Properties, *, olds: Properties, preview: bool) -> Properties:
        tags: Sequence[Any] = as_list(news.get("tags"))
        first_tag = next((tag for tag in tags if tag is not UNKNOWN), "")
        state: Properties = {**news, "contextHash": self._hash_context(news), "ref": first_tag, "digest": ""}
        if preview:
            self._preview_build(call, news)
            return _mark_secrets({**state, "ref": UNKNOWN, "digest": UNKNOWN})
        if not news.get("push") and not news.get("load"):
            call.log(
                "warning",
                "No exports were specified so the build will only remain in the local build cache. Use `push` to "
                "upload the image to a registry.",
            )
        images = LocalImages()
        try:
            previous_ids = images.find_tagged([*as_list(olds.get("tags")), *tags])
            image_id = build(call, _build_options(news, tags if news.get("push") or news.get("load") else ()))
            if news.get("push"):
                try:
                    digests = [images.push(call, tag, _read_logins(news)) for tag in tags]
                except (ProviderError, CancelledError):
                    images.untag(tags, image_id)  # a local tag would look as if a registry had the image
                    raise
                state |= {"digest": digests[0], "ref": _pin(tags[0], digests[0])}
            elif not news.get("load"):
                images.remove_unnamed(image_id)
            images.remove_copies(_image_names([*as_list(olds.get("tags")), *tags]), keep=image_id)
            for previous_id in {*previous_ids} - {image_id}:
                images.remove_unnamed(previous_id)  # unless a container still uses it
        finally:
            images.close()
        return _mark_secrets(state)

    def _preview_build(self, call: Call, news: Properties) -> None:
        """Build in a preview too, to find mistakes early; the built image is deleted."""
        if news.get("buildOnPreview") is False:
            return
        if has_unknown(news):
            call.log("warning", "Skipping preview build because some inputs are unknown.")
            return
        images = LocalImages()
        try:
            images.remove_unnamed(build(call, _build_options(news, ())))
        finally:
            images.close()

    def _hash_context(self, inputs: Properties) -> Any:
        context, dockerfile = _context_location(inputs), _dockerfile_path(inputs)
        if context is UNKNOWN or dockerfile is UNKNOWN:
            return UNKNOWN
        return hash_context(context, dockerfile, _inline_dockerfile(inputs))


def _fill_defaults(inputs: Properties) -> Properties:
    """The inputs with the empty values that the real plugin's Check adds."""
    full: Properties = {"exec": False, "load": False, "noCache": False, "pull": False, "target": "", **inputs}
    if isinstance(inputs.get("dockerfile"), dict):
        full["dockerfile"] = {"inline": "", "location": "", **inputs["dockerfile"]}
    return full


def _context_location(inputs: Properties) -> Any:
    context = inputs.get("context")
    return UNKNOWN if context is UNKNOWN else as_dict(context).get("location") or "."


def _dockerfile_path(inputs: Properties) -> Any:
    """The Dockerfile's path, by default `Dockerfile` in the context; empty if it is inline."""
    dockerfile, context = as_dict(inputs.get("dockerfile")), _context_location(inputs)
    if has_unknown(inputs.get("dockerfile")):
        return UNKNOWN
    if dockerfile.get("inline"):
        return ""
    if dockerfile.get("location"):
        return dockerfile["location"]
    if context is UNKNOWN:
        return UNKNOWN
    return "" if is_remote(context) else str(Path(context) / "Dockerfile")


def _inline_dockerfile(inputs: Properties) -> str:
    text = as_dict(inputs.get("dockerfile")).get("inline")
    return text if isinstance(text, str) else ""


def _read_logins(properties: Properties) -> list[Login]:
    return [
        Login(str(registry["address"]), str(registry.get("username") or ""), str(registry.get("password") or ""))
        for registry in as_list(properties.get("registries"))
    ]


def _hosted_name(tag: Any) -> str | None:
    """The name of an image if it includes the registry's host, otherwise None."""
    reference = parse_reference(tag) if isinstance(tag, str) else None
    return reference.name if reference and reference.host else None


def _image_names(tags: Sequence[Any]) -> list[str]:
    references = [parse_reference(tag) for tag in tags if isinstance(tag, str)]
    return [reference.name for reference in references if reference is not None]


def _pin(tag: str, digest: str) -> str:
    """The reference `name:tag@digest`; a tag without a registry's host stays as it is."""
    reference = parse_reference(tag)
    if reference is None or not reference.host:
        return tag
    return f"{reference.name}:{reference.tag}@{digest}"


def _build_options(news: Properties, tags: Sequence[str]) -> BuildOptions:
    platforms = as_list(news.get("platforms"))
    return BuildOptions(
        context=_context_location(news),
        dockerfile=_dockerfile_path(news),
        inline=_inline_dockerfile(news),
        tags=tags,
        build_args=news.get("buildArgs") or {},
        labels=news.get("labels") or {},
        secrets=news.get("secrets") or {},
        hosts=as_list(news.get("addHosts")),
        platform=platforms[0] if platforms else "",
        target=news.get("target") or "",
        network=news.get("network") or "default",
        no_cache=bool(news.get("noCache")),
        pull=bool(news.get("pull")),
    )


def _secrets_to_compare(olds: Properties, news: Properties) -> Any:
    """The new secrets, with the old values of those that the program excludes from comparison."""
    old_secrets, new_secrets = olds.get("secrets"), news.get("secrets")
    if not isinstance(old_secrets, dict) or not isinstance(new_secrets, dict):
        return cast("Any", new_secrets)
    ignored = set(as_list(news.get("ignoreSecretsInDiffCalculation")))
    old_values = as_dict(old_secrets)
    return {
        key: old_values[key] if key in ignored and key in old_values else value
        for key, value in as_dict(new_secrets).items()
    }


def _mark_secrets(properties: Properties) -> Properties:
    """The properties with secrets and registry passwords marked for encryption, even if the program didn't."""
    marked = dict(properties)
    if isinstance(marked.get("secrets"), dict):
        marked["secrets"] = Secret(marked["secrets"])
    if isinstance(marked.get("registries"), list):
        marked["registries"] = [
            {**as_dict(registry), "password": Secret(as_dict(registry)["password"])}
            if as_dict(registry).get("password")
            else registry
            for registry in as_list(marked["registries"])
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
        """A mistake for each key that the emulated provider doesn't have."""
        return [
            CheckFailure(f"docker-build:{key}: the emulated provider does not have this setting", key)
            for key in news
            if key not in _KEYS
        ]

    def default_configuration(self) -> dict[str, str]:
        """The Docker host, as the real plugin stores it."""
        return {"host": os.environ.get("DOCKER_HOST", "")}

    def read_configuration(self, news: Properties) -> None:
        """Check the Docker host; the provider has no other configuration.

        Raises:
            ProviderError: the configured Docker host differs from the environment's.
        """
        if news.get("host", "") not in ("", os.environ.get("DOCKER_HOST")):
            raise ProviderError(
                "docker-build:host: the emulated provider finds Docker only by the environment: set DOCKER_HOST instead"
            )
