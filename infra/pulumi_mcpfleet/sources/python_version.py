"""Checks the Python of the base image against a repository's requirements.

The versions that a project allows are rules: if the base image breaks one, the source is refused. The versions in
`.python-version` and similar files are preferences: if one is not met, there is a note.
"""

import configparser
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from pulumi_mcpfleet.sources.build_plan import BASE_PYTHON, UV_VERSION, SourceMistake
from pulumi_mcpfleet.sources.layout import BYTE_ORDER_MARK, Layout, table, text

_IMAGES: Final = ("3.14", "3.13", "3.12", "3.11")
"""Versions of Python for which there are base images, newest first."""

_PREFERENCES: Final = (".python-version", ".tool-versions", "runtime.txt")


def base_python(build_args: Mapping[str, str]) -> str | None:
    """Return the Python version of the base image, such as 3.13; None if its name doesn't show it."""
    image = build_args.get("BASE_IMAGE")
    if image is None:
        return BASE_PYTHON
    match = re.search(r"python[:_-]?v?(3\.[0-9]{1,2})(?![0-9])", image.partition("@")[0])
    return match[1] if match else None


def find_broken_rules(
    layout: Layout, project: Mapping[str, Any], build_args: Mapping[str, str]
) -> Iterator[SourceMistake]:
    """Yield the rules of a project that the base image's Python or the installed uv breaks."""
    base = base_python(build_args)
    for origin, specifier in _find_rules(layout, project):
        try:
            fitting = [version for version in _IMAGES if _allows(specifier, version)]
            is_satisfied = base is None or _allows(specifier, base)
        except InvalidSpecifier:
            yield SourceMistake("", f"{origin} {specifier!r} is not a version specifier; correct it")
            continue
        if is_satisfied:
            continue
        conflict = f"{origin} wants Python {specifier}, and the base image has {base}"
        if fitting:
            yield SourceMistake(
                "build_args", f'{conflict}; write build_args: {{BASE_IMAGE: "python:{fitting[0]}-slim"}}'
            )
        else:
            yield SourceMistake("dockerfile", f"{conflict}; add a Dockerfile of the repository's own")
    required = text(table(project, "tool", "uv").get("required-version"))
    try:
        if required is not None and not SpecifierSet(_with_operator(required)).contains(UV_VERSION):
            message = f"pyproject.toml wants uv {required}, and {UV_VERSION} installs it; loosen required-version"
            yield SourceMistake("installer", message)
    except InvalidSpecifier:
        yield SourceMistake("", f"pyproject.toml: required-version {required!r} is not a version specifier; correct it")


def find_ignored_preferences(layout: Layout, build_args: Mapping[str, str]) -> Iterator[str]:
    """Yield a note if the repository prefers another Python than that of the base image."""
    base = base_python(build_args)
    for name in _PREFERENCES:
        preferred = _preferred_version(layout, name)
        if preferred is None:
            continue
        if base is not None and preferred != base:
            yield f"Python {base}, which the base image has; {name} prefers {preferred} (`build_args`: BASE_IMAGE)"
        return


def _find_rules(layout: Layout, project: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the rules on Python's version: the place of each, and its specifier."""
    project_rule = text(table(project, "project").get("requires-python"))
    poetry = text(table(project, "tool", "poetry", "dependencies").get("python"))
    if project_rule is not None:
        yield "pyproject.toml: requires-python", project_rule
    elif poetry is not None:
        yield "pyproject.toml: python of Poetry's dependencies", poetry
    if (locked := text(layout.toml("pylock.toml").get("requires-python"))) is not None:
        yield "pylock.toml: requires-python", locked
    setup = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        setup.read_string(layout.texts.get("setup.cfg", "").removeprefix(BYTE_ORDER_MARK))
    except configparser.Error:
        return  # the error can be in another tool's section; the installer reports it
    if (classic := text(setup.get("options", "python_requires", fallback=None))) is not None:
        yield "setup.cfg: python_requires", classic


def _allows(specifier: str, version: str) -> bool:
    """Whether *specifier* allows a release of *version*, such as 3.13.

    Raises:
        InvalidSpecifier: The specifier is not valid.
    """
    parts = [SpecifierSet(_to_pep440(part)) for part in specifier.split("||")[:20]]
    return any(part.contains(f"{version}.{patch}", prereleases=True) for part in parts for patch in range(60))


def _to_pep440(poetry: str) -> str:
    """Convert Poetry's ^3.10, ~3.10 and 3.10 to a specifier of PEP 440."""
    converted: list[str] = []
    for part in re.split(r"\s*,\s*|(?<=[0-9*])\s+(?=[<>=!~^])", poetry.strip()):
        version = re.fullmatch(r"([\^~]?)\s*([0-9]{1,4})((?:\.[0-9]{1,4}){0,2})(\.?\*?)", part)
        if version is None or version[4] not in ("", ".*"):
            converted.append("" if part == "*" else part)
            continue
        sign, major, rest, star = version.groups()
        minor = rest.split(".")[1] if rest else None
        if sign == "^" or (sign == "~" and minor is None):
            converted.append(f">={major}{rest},<{int(major) + 1}")
        elif sign:
            converted.append(f">={major}{rest},<{major}.{int(minor or 0) + 1}")
        else:
            converted.append(f"=={major}{rest}{star}")
    return ",".join(part for part in converted if part)


def _with_operator(version: str) -> str:
    return f"=={version}" if re.match(r"[0-9]", version) else version


def _preferred_version(layout: Layout, name: str) -> str | None:
    """Return the version that a file prefers, without its patch version; None if there is none."""
    for line in layout.texts.get(name, "").removeprefix(BYTE_ORDER_MARK).splitlines()[:50]:
        value = line.partition("#")[0].strip()
        if name == ".tool-versions":
            tool, _, value = value.partition(" ")
            value = value.strip() if tool == "python" else ""
        if not value:
            continue
        match = re.match(r"(?:c?python[-@]?)?v?(3\.[0-9]{1,3})(?![0-9])", value)
        return match[1] if match else value[:40]
    return None
