"""Which Python a repository gets: that of the base image.

What the project allows is a rule, and one that the base image breaks is refused. What `.python-version` and its like
say is what its authors use themselves: a preference, which gives way and is told.
"""

import configparser
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from pulumi_mcpfleet.sources.build_plan import BASE_PYTHON, UV_VERSION, Mistake
from pulumi_mcpfleet.sources.layout import MARK, Layout, table, text

_IMAGES: Final = ("3.14", "3.13", "3.12", "3.11")
"""Versions of Python for which there are base images, newest first."""

_PREFERENCES: Final = (".python-version", ".tool-versions", "runtime.txt")


def base_python(build_args: Mapping[str, str]) -> str | None:
    """The Python of the base image, such as 3.13; None where its name does not say it."""
    image = build_args.get("BASE_IMAGE")
    if image is None:
        return BASE_PYTHON
    found = re.search(r"python[:_-]?v?(3\.[0-9]{1,2})(?![0-9])", image.partition("@")[0])
    return found[1] if found else None


def broken_rules(layout: Layout, project: Mapping[str, Any], build_args: Mapping[str, str]) -> Iterator[Mistake]:
    """The rules of a project that the base image breaks, or our uv."""
    base = base_python(build_args)
    for place, wanted in _rules(layout, project):
        try:
            fits = [version for version in _IMAGES if _allows(wanted, version)]
            kept = base is None or _allows(wanted, base)
        except InvalidSpecifier:
            yield Mistake("", f"{place} {wanted!r} is no version specifier; mend it")
            continue
        if kept:
            continue
        there = f"{place} wants Python {wanted}, and the base image has {base}"
        if fits:
            yield Mistake("build_args", f'{there}; write build_args: {{BASE_IMAGE: "python:{fits[0]}-slim"}}')
        else:
            yield Mistake("dockerfile", f"{there}; add a Dockerfile of the repository's own")
    required = text(table(project, "tool", "uv").get("required-version"))
    try:
        if required is not None and not SpecifierSet(_with_operator(required)).contains(UV_VERSION):
            sentence = f"pyproject.toml wants uv {required}, and {UV_VERSION} installs it; loosen required-version"
            yield Mistake("installer", sentence)
    except InvalidSpecifier:
        yield Mistake("", f"pyproject.toml: required-version {required!r} is no version specifier; mend it")


def given_way(layout: Layout, build_args: Mapping[str, str]) -> Iterator[str]:
    """A sentence where the repository prefers another Python than the base image has."""
    base = base_python(build_args)
    for name in _PREFERENCES:
        wanted = _preferred(layout, name)
        if wanted is None:
            continue
        if base is not None and wanted != base:
            yield f"Python {base}, which the base image has; {name} prefers {wanted} (`build_args`: BASE_IMAGE)"
        return


def _rules(layout: Layout, project: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where a rule stands, and which versions it allows."""
    said = text(table(project, "project").get("requires-python"))
    poetry = text(table(project, "tool", "poetry", "dependencies").get("python"))
    if said is not None:
        yield "pyproject.toml: requires-python", said
    elif poetry is not None:
        yield "pyproject.toml: python of Poetry's dependencies", poetry
    if (locked := text(layout.toml("pylock.toml").get("requires-python"))) is not None:
        yield "pylock.toml: requires-python", locked
    setup = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        setup.read_string(layout.texts.get("setup.cfg", "").removeprefix(MARK))
    except configparser.Error:
        return  # of other tools' sections, too; who installs it says what is wrong
    if (classic := text(setup.get("options", "python_requires", fallback=None))) is not None:
        yield "setup.cfg: python_requires", classic


def _allows(wanted: str, version: str) -> bool:
    """Whether some release of *version* (3.13) is among those that *wanted* allows.

    Raises:
        InvalidSpecifier: It is none.
    """
    parts = [SpecifierSet(_pep440(part)) for part in wanted.split("||")[:20]]
    return any(part.contains(f"{version}.{patch}", prereleases=True) for part in parts for patch in range(60))


def _pep440(poetry: str) -> str:
    """Poetry's ^3.10, ~3.10 and 3.10 as a specifier of PEP 440."""
    found: list[str] = []
    for one in re.split(r"\s*,\s*|(?<=[0-9*])\s+(?=[<>=!~^])", poetry.strip()):
        version = re.fullmatch(r"([\^~]?)\s*([0-9]{1,4})((?:\.[0-9]{1,4}){0,2})(\.?\*?)", one)
        if version is None or version[4] not in ("", ".*"):
            found.append("" if one == "*" else one)
            continue
        sign, major, rest, star = version.groups()
        minor = rest.split(".")[1] if rest else None
        if sign == "^" or (sign == "~" and minor is None):
            found.append(f">={major}{rest},<{int(major) + 1}")
        elif sign:
            found.append(f">={major}{rest},<{major}.{int(minor or 0) + 1}")
        else:
            found.append(f"=={major}{rest}{star}")
    return ",".join(one for one in found if one)


def _with_operator(version: str) -> str:
    return f"=={version}" if re.match(r"[0-9]", version) else version


def _preferred(layout: Layout, name: str) -> str | None:
    """The version that a file prefers, its patch left out."""
    for line in layout.texts.get(name, "").removeprefix(MARK).splitlines()[:50]:
        said = line.partition("#")[0].strip()
        if name == ".tool-versions":
            tool, _, said = said.partition(" ")
            said = said.strip() if tool == "python" else ""
        if not said:
            continue
        found = re.match(r"(?:c?python[-@]?)?v?(3\.[0-9]{1,3})(?![0-9])", said)
        return found[1] if found else said[:40]
    return None
