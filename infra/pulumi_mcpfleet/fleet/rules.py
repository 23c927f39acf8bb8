"""Rules between the keys of one container: plain variables, secrets, and mounts."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from pulumi_mcpfleet.fleet import values
from pulumi_mcpfleet.fleet.base import NUMBER, Mistake, raise_if_any

Mounts = Mapping[str, str]
"""Mounts of a container: the folder, and a description of its content for messages."""


def plain_secret_mistakes(env: Mapping[str, str]) -> Iterator[Mistake]:
    """Find variables whose plain value looks like a secret."""
    for name, value in env.items():
        if values.looks_like_secret(name, value):
            secret = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-") or "name"
            message = (
                "looks like a secret, which everyone who sees this file, the state or the service could read; store it"
                f" (gcloud secrets create {secret} --data-file=-), then write"
                f' secrets: {{{name}: {{secret: {secret}, version: "1"}}}}'
            )
            yield (name,), message


def _check_build_args(value: Mapping[str, str]) -> Mapping[str, str]:
    message = "looks like a secret, which everyone who has the image could read; remove it"
    mistakes: list[Mistake] = [((name,), message) for name in value if values.looks_like_secret(name, value[name])]
    mistakes += [
        ((name,), "contains a NUL character, which no build accepts; remove it")
        for name in value
        if "\0" in value[name]
    ]
    return raise_if_any(value, mistakes)


BuildArgs = Annotated[Mapping[values.BuildArgName, values.Text], AfterValidator(_check_build_args)]
"""Values for a Dockerfile's ARGs."""

_OPTION: Final = re.compile(r"--?([A-Za-z][A-Za-z0-9_-]*)=(.+)", re.DOTALL)


def _check_words(value: tuple[str, ...]) -> tuple[str, ...]:
    def is_secret(word: str) -> bool:
        option = _OPTION.fullmatch(word)
        name, value_part = (option[1].replace("-", "_"), option[2]) if option else ("", word)
        return values.looks_like_secret(name, value_part)

    message = (
        "looks like a secret, which everyone who sees this file, the image or the service could read; let the server"
        " read it from its environment, and write it under secrets"
    )
    return raise_if_any(value, [((index,), message) for index, word in enumerate(value) if is_secret(word)])


Words = Annotated[tuple[values.Text, ...], AfterValidator(_check_words)]
"""A command, or arguments for one."""


Port = Annotated[int, NUMBER, Field(ge=1, le=65_535)]
"""A port on which a container listens."""


def duplicate_variable_mistakes(secrets: Mapping[str, object], env: Mapping[str, str]) -> Iterator[Mistake]:
    """Find secrets for a variable that `env` sets, too."""
    for target in secrets:
        if target in env:
            yield (target,), "is set in env as well; keep one"


def secret_folder_mistakes(secrets: Mapping[str, object]) -> Iterator[Mistake]:
    """Find secret files whose folder hides another's; only files of the same secret can share a folder."""
    secrets_by_folder: dict[str, str] = {}
    for target, ref in secrets.items():
        folder, secret = secret_folder(target), str(getattr(ref, "secret", ""))
        if folder and secrets_by_folder.setdefault(folder, secret) != secret:
            yield (
                (target,),
                f"is in the folder of {secrets_by_folder[folder]}, and a folder holds one secret; write another folder",
            )
    yield from mount_mistakes(
        {target: folder for target in secrets if (folder := secret_folder(target))}, {}, shared=True
    )


def mount_mistakes(mounts_by_key: Mapping[str, str], existing: Mounts, *, shared: bool = False) -> Iterator[Mistake]:
    """Find mounts that hide each other, or one of *existing*.

    Args:
        mounts_by_key: The folder of each mount, by its key in the config.
        existing: The mounts that are not checked against each other.
        shared: Whether two of *mounts_by_key* may have the same folder.
    """
    used = dict(existing)
    for key, folder in mounts_by_key.items():
        for other, content in used.items():
            if folder == other and not (shared and other not in existing):
                yield (key,), f"is mounted at {folder}, where {content} is already; write another path"
            elif folder.startswith(f"{other}/") or other.startswith(f"{folder}/"):
                yield (key,), f"at {folder} and {content} at {other} would hide each other; write another path"
        used[folder] = key


def volume_mistakes(
    volumes: Mapping[str, Any], secrets: Mapping[str, object], writable: Iterable[str] = ()
) -> Iterator[Mistake]:
    """Find volumes that hide each other, a folder of secrets, or a folder in *writable*."""
    existing = secret_folders(secrets) | dict.fromkeys(writable, "a folder of `writable`")
    yield from mount_mistakes({name: volume.mount for name, volume in volumes.items()}, existing)


def secret_folders(secrets: Mapping[str, object]) -> dict[str, str]:
    """The folders of the secret files in *secrets*, each with a description of its content."""
    return {folder: f"the secret {target}" for target in secrets if (folder := secret_folder(target))}


def secret_files(secrets: Mapping[str, object]) -> dict[str, str]:
    """The paths of the secret files in *secrets*, each with its folder."""
    return {target: folder for target in secrets if (folder := secret_folder(target))}


_FILE: Final = re.compile(r"(/.+)/[^/]+")


def secret_folder(target: str) -> str:
    """The folder that Cloud Run mounts for the file *target*; empty if *target* is a variable."""
    match = _FILE.fullmatch(target)
    return match.group(1) if match else ""
