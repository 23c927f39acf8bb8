"""Rules between the keys of one container: plain variables, secrets, and what is mounted where."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from pulumi_mcpfleet.fleet import values
from pulumi_mcpfleet.fleet.base import NUMBER, Mistake, raise_if_any

Places = Mapping[str, str]
"""What is mounted: the folder, and in words what is there."""


def secrets_in_the_clear(env: Mapping[str, str]) -> Iterator[Mistake]:
    """Variables whose plain value seems to be a secret."""
    for name, value in env.items():
        if values.looks_secret(name, value):
            secret = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-") or "name"
            sentence = (
                "looks like a secret, which everyone who sees this file, the state or the service could read; store it"
                f" (gcloud secrets create {secret} --data-file=-), then write"
                f' secrets: {{{name}: {{secret: {secret}, version: "1"}}}}'
            )
            yield (name,), sentence


def _build_args(value: Mapping[str, str]) -> Mapping[str, str]:
    sentence = "looks like a secret, which everyone who has the image could read, and a build is given none; remove it"
    found: list[Mistake] = [((name,), sentence) for name in value if values.looks_secret(name, value[name])]
    found += [((name,), "holds a NUL, which no build takes; remove it") for name in value if "\0" in value[name]]
    return raise_if_any(value, found)


BuildArgs = Annotated[Mapping[values.BuildArgName, values.Text], AfterValidator(_build_args)]
"""Values for a Dockerfile's ARGs."""

_OPTION: Final = re.compile(r"--?([A-Za-z][A-Za-z0-9_-]*)=(.+)", re.DOTALL)


def _words(value: tuple[str, ...]) -> tuple[str, ...]:
    def secret(word: str) -> bool:
        option = _OPTION.fullmatch(word)
        name, given = (option[1].replace("-", "_"), option[2]) if option else ("", word)
        return values.looks_secret(name, given)

    sentence = (
        "looks like a secret, which everyone who sees this file, the image or the service could read; let the server"
        " read it from its environment, and write it under secrets"
    )
    return raise_if_any(value, [((index,), sentence) for index, word in enumerate(value) if secret(word)])


Words = Annotated[tuple[values.Text, ...], AfterValidator(_words)]
"""A command, or arguments for one."""


Port = Annotated[int, NUMBER, Field(ge=1, le=65_535)]
"""Where a container listens."""


def set_twice(secrets: Mapping[str, object], env: Mapping[str, str]) -> Iterator[Mistake]:
    """Secrets at a variable that env sets too."""
    for place in secrets:
        if place in env:
            yield (place,), "is set in env as well; keep one"


def hidden_secrets(secrets: Mapping[str, object]) -> Iterator[Mistake]:
    """Secrets whose folder hides the folder of another; files of one secret may share theirs."""
    holders: dict[str, str] = {}
    for place, ref in secrets.items():
        folder, secret = folder_of(place), str(getattr(ref, "secret", ""))
        if folder and holders.setdefault(folder, secret) != secret:
            yield (
                (place,),
                f"is in the folder of {holders[folder]}, and a folder holds one secret; write another folder",
            )
    yield from hidden({place: folder for place in secrets if (folder := folder_of(place))}, {}, shared=True)


def hidden(places: Mapping[str, str], before: Places, *, shared: bool = False) -> Iterator[Mistake]:
    """Mounts that hide each other, or one of *before*.

    Args:
        places: The key of each mount, and its folder.
        before: What is mounted already.
        shared: Whether two of *places* may have the same folder.
    """
    known = dict(before)
    for key, folder in places.items():
        for other, what in known.items():
            if folder == other and not (shared and other not in before):
                yield (key,), f"is mounted at {folder}, where {what} is already; write another place"
            elif folder.startswith(f"{other}/") or other.startswith(f"{folder}/"):
                yield (key,), f"at {folder} and {what} at {other} would hide each other; write another place"
        known[folder] = key


def mounts(
    volumes: Mapping[str, Any], secrets: Mapping[str, object], writable: Iterable[str] = ()
) -> Iterator[Mistake]:
    """Volumes that hide each other, a folder of secrets, or one of *writable*."""
    before = folders(secrets) | dict.fromkeys(writable, "a folder of `writable`")
    yield from hidden({name: volume.mount for name, volume in volumes.items()}, before)


def folders(secrets: Mapping[str, object]) -> dict[str, str]:
    """The folders that the files of *secrets* need, each with what is there."""
    return {folder: f"the secret {place}" for place in secrets if (folder := folder_of(place))}


def places(secrets: Mapping[str, object]) -> dict[str, str]:
    """The files of *secrets*, each with its folder."""
    return {place: folder for place in secrets if (folder := folder_of(place))}


_FILE: Final = re.compile(r"(/.+)/[^/]+")


def folder_of(place: str) -> str:
    """The folder that is mounted for the file *place*; nothing for a variable."""
    found = _FILE.fullmatch(place)
    return found.group(1) if found else ""
