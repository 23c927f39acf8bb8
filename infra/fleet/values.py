"""The fleet's scalar values: one type for each kind of word a user writes, with its rule.

A rule that fails raises `ValueError` whose text says what to write instead; `infra.fleet.parse` puts
the config path before it.
"""

import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, cast

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from infra import environment, naming
from infra.fleet.words import unknown_word

Items = TypeVar("Items", bound=Sequence[Hashable])

Text = Annotated[str, Field(max_length=32_768)]
"""Any text. The bound is Cloud Run's for one environment variable."""


def _matching(pattern: str, problem: str) -> AfterValidator:
    """A rule: the whole text matches *pattern*; otherwise *problem*, with the text quoted before it."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f"{value!r} {problem}")
        return value

    return AfterValidator(check)


def _without_repeats(items: Items) -> Items:
    seen: set[Hashable] = set()
    for item in items:
        key = item.casefold() if isinstance(item, str) else item
        if key in seen:
            raise ValueError(f"{item!r} is in the list twice; keep one")
        seen.add(key)
    return items


NO_REPEATS: Final = AfterValidator(_without_repeats)
"""A list without doubles. Letter case does not count: IAM compares members without it."""


def _refuse_yes_no(value: Any) -> Any:
    if isinstance(value, bool):
        # Python (and so pydantic) takes true for the number 1.
        raise ValueError(f"{str(value).lower()} is not a number; write a number")  # noqa: TRY004
    return value


NUMBER: Final = BeforeValidator(_refuse_yes_no)


def one_kind(what: str, kinds: Sequence[str]) -> BeforeValidator:
    """A rule for a tagged union: exactly one of *kinds* is a key of the mapping.

    Without it a mistyped kind would be reported as several missing and unknown keys, one set for
    each member of the union.
    """
    choice = " | ".join(kinds)

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        keys = [str(key) for key in cast("dict[Any, Any]", value)]
        said = [kind for kind in kinds if kind in keys]
        if len(said) > 1:
            raise ValueError(f"says {' and '.join(said)} at once; keep one")
        if not said:
            if not keys:
                raise ValueError(f"is empty; say which kind of {what}: {choice}")
            raise ValueError(f"unknown kind of {what}: " + "; ".join(unknown_word(key, kinds) for key in keys))
        return cast("Any", value)

    return BeforeValidator(check)


def _server_name(value: str) -> str:
    low, high = naming.SERVER_NAME_MIN, naming.SERVER_NAME_MAX
    if re.fullmatch(rf"[a-z][a-z0-9-]{{{low - 2},{high - 2}}}[a-z0-9]", value):
        return value
    wish = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-")[:high].rstrip("-")
    advice = f"; write {wish}" if re.fullmatch(rf"[a-z][a-z0-9-]{{{low - 2},{high - 2}}}[a-z0-9]", wish) else ""
    raise ValueError(
        f"a server's name has {low} to {high} characters out of a-z, 0-9 and -, begins with a letter and"
        f" does not end with - (its service account is {naming.SERVER_PREFIX}NAME){advice}"
    )


ServerName = Annotated[str, AfterValidator(_server_name)]

Region = Annotated[
    str,
    _matching(
        r"[a-z]+(-[a-z]+)+[0-9]{1,2}",
        "is not a Cloud Run region; write one from `gcloud run regions list`, such as europe-west1 (no zone letter)",
    ),
]

# Labels: "keys and values can contain lowercase letters, numbers, underscores and dashes; both at most
# 63 characters; keys begin with a letter" (Google Cloud, "Requirements for labels").
LabelKey = Annotated[
    str,
    _matching(
        r"[a-z][a-z0-9_-]{0,62}",
        "cannot be a label's key; use at most 63 of a-z, 0-9, _ and -, beginning with a letter",
    ),
]
LabelValue = Annotated[
    str, _matching(r"[a-z0-9_-]{0,63}", "cannot be a label's value; use at most 63 of a-z, 0-9, _ and -")
]

# The grammar of the distribution project's reference package, which Cloud Run's error quotes as
# "[host/]repo-path[:tag and/or @digest]".
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)*(?::[0-9]+)?/)?"
ImageUrl = Annotated[
    str,
    Field(max_length=1024),
    _matching(
        rf"{_HOST}{_COMPONENT}(?:/{_COMPONENT})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?",
        "is not an image; write [HOST/]PATH[:TAG][@sha256:DIGEST] in small letters, without https://",
    ),
]


def _folder(value: str, info: ValidationInfo) -> str:
    folder = Path(value)
    if not value.strip() or "\0" in value:
        raise ValueError("is empty; write a folder that holds a Dockerfile, such as ./mcp_server")
    if folder.is_absolute() or value.startswith("~"):
        raise ValueError(f"{value!r} is a place on one machine; write the folder as seen from Pulumi.yaml")
    root = cast("dict[str, Path | None]", info.context or {}).get("root")
    if root is not None and not (root / folder / "Dockerfile").is_file():
        raise ValueError(f"there is no {folder.as_posix()}/Dockerfile beside Pulumi.yaml; correct the folder or add it")
    return value


Folder = Annotated[str, Field(max_length=1024), AfterValidator(_folder)]

_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]{0,255}"
BuildArgName = Annotated[
    str, _matching(_VARIABLE, "is not a build argument's name; use letters, digits and _, no digit first")
]


def _environment_name(value: str) -> str:
    if not re.fullmatch(_VARIABLE, value):
        raise ValueError(f"{value!r} is not a variable's name; use letters, digits and _, no digit first")
    if value == "PORT" or value.startswith(("K_", "X_GOOGLE_")):
        raise ValueError(f"{value} is Cloud Run's own; remove it")
    if value in environment.INJECTED:
        raise ValueError(f"{value} is set by mcpfleet; remove it ({environment.INJECTED[value]})")
    return value


EnvironmentName = Annotated[str, AfterValidator(_environment_name)]


def _url_path(value: str) -> str:
    if not re.fullmatch(r"/[A-Za-z0-9._~/-]{0,255}", value) or "//" in value or (value != "/" and value.endswith("/")):
        raise ValueError(f"{value!r} is not a path; write it as /mcp: / first, no / last, no query")
    if value.endswith("z"):
        raise ValueError(f"{value} ends in z, and Google's front end answers such paths itself; write another")
    return value


UrlPath = Annotated[str, AfterValidator(_url_path)]

Origin = Annotated[
    str,
    _matching(
        r"https?://[a-z0-9.-]+(:[0-9]{1,5})?",
        "is not an origin; write https://HOST[:PORT] in small letters, without a path (* is not accepted)",
    ),
]

Audience = Annotated[
    str,
    _matching(r"\S{1,2048}", "is not an audience; write a URL or a word without spaces, such as https://mcp.acme.dev"),
]


def _member(value: str) -> str:
    if value in {"allUsers", "allAuthenticatedUsers"}:
        raise ValueError(
            f"{value} would let anybody call the server; name people, groups or accounts, such as group:team@acme.dev"
        )
    address = r"[^\s@:,]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+"
    forms = (
        rf"(user|serviceAccount|group):{address}",
        r"domain:[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+",
        r"principal(Set)?://[A-Za-z0-9.-]+(/[^\s/]+)+",
    )
    # IAM's own bound for a member is not documented; 2 KiB holds any workforce identity.
    if len(value) > 2048 or not any(re.fullmatch(form, value) for form in forms):
        raise ValueError(
            f"{value[:200]!r} is not a principal; write user:ADDRESS, group:ADDRESS, serviceAccount:ADDRESS,"
            " domain:DOMAIN, principal://… or principalSet://…"
        )
    return value


Member = Annotated[str, AfterValidator(_member)]


def _as_text(value: Any) -> Any:
    # YAML reads `cpu: 2` as a number; Cloud Run wants the text "2".
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def cpus(value: str) -> float:
    """A quantity of CPUs, such as "1" or "500m", in CPUs."""
    return float(value[:-1]) / 1000 if value.endswith("m") else float(value)


_MEMORY_UNITS: Final = {"k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def mebibytes(value: str) -> float:
    """A quantity of memory, such as "512Mi" or "2G", in MiB."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]+)", value).groups()  # pyright: ignore[reportOptionalMemberAccess]
    return float(number) * _MEMORY_UNITS[unit] / 2**20


def _cpu(value: str) -> str:
    known = re.fullmatch(r"[0-9]{1,4}m|[0-9]{1,2}(\.[0-9]{1,3})?", value)
    # Cloud Run: 1, 2, 4, 6 or 8 CPUs, or from 0.08 to 1 in steps of 0.01.
    if not known or not (0.08 <= cpus(value) < 1 or cpus(value) in {1, 2, 4, 6, 8}):
        raise ValueError(
            f'{value!r} is not an amount of CPU that Cloud Run has; write "1", "2", "4", "6", "8" or "0.08" to "1"'
        )
    return value


Cpu = Annotated[str, BeforeValidator(_as_text), AfterValidator(_cpu)]


def _memory(value: str) -> str:
    if not re.fullmatch(r"[0-9]{1,9}(k|M|G|Ki|Mi|Gi)", value):
        raise ValueError(f'{value!r} is not an amount of memory; write it as "512Mi" or "2Gi"')
    if not 128 <= mebibytes(value) <= 32 * 1024:
        raise ValueError(f'{value} is out of range; Cloud Run has 128Mi to 32Gi, write for instance "512Mi"')
    return value


Memory = Annotated[str, AfterValidator(_memory)]
