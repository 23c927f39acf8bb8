"""`python -m devtools.release`: what a release needs besides the tag, with nothing but Python's standard library.

- `set VERSION` writes the next version into every file that has it.
- `check TAG` ends with an error unless the tag, every file and the changelog agree on the version.
- `notes TAG REPOSITORY` prints the changelog's section of the version.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
_VERSION: Final = r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){2}"
_NAMES: Final = "mcpfleet|mcpfleet-bridge|mcpfleet-local-cloud|mcpfleet-login|mcpfleet-server|pulumi-mcpfleet"
_OWN: Final = re.compile(rf'^(version = ")({_VERSION})(")$', re.MULTILINE)
_PIN: Final = re.compile(rf'("(?:{_NAMES})(?:\[[\w,]+\])?==)({_VERSION})(")')
_OWN_AND_PINS: Final = re.compile(rf'(^version = "|"(?:{_NAMES})(?:\[[\w,]+\])?==)({_VERSION})(")', re.MULTILINE)
_CONSTANT: Final = re.compile(rf'^(__version__ = ")({_VERSION})(")$', re.MULTILINE)
_TEMPLATE: Final = "packages/mcpfleet/mcpfleet/template"
_FILES: Final[Mapping[str, re.Pattern[str]]] = {
    "pyproject.toml": _OWN,
    "infra/pyproject.toml": _OWN_AND_PINS,
    "local_cloud/pyproject.toml": _OWN_AND_PINS,
    "packages/mcpfleet/pyproject.toml": _OWN_AND_PINS,
    "packages/mcpfleet-bridge/pyproject.toml": _OWN_AND_PINS,
    "packages/mcpfleet-login/pyproject.toml": _OWN_AND_PINS,
    "packages/mcpfleet-server/pyproject.toml": _OWN,
    "packages/mcpfleet-bridge/mcpfleet_bridge/__init__.py": _CONSTANT,
    "packages/mcpfleet-login/mcpfleet_login/__init__.py": _CONSTANT,
    "packages/mcpfleet-server/mcpfleet_server/__init__.py": _CONSTANT,
    f"{_TEMPLATE}/pyproject.toml": _PIN,
    f"{_TEMPLATE}/servers/hello/pyproject.toml": _PIN,
}
"""Each file that has the version, and what it stands in."""


class ReleaseError(ValueError):
    """Something keeps the version from being released; the text says what to change."""


def set_version(version: str, root: Path = ROOT) -> None:
    """Write *version* into every file that has the version, except uv.lock and the changelog.

    Raises:
        ReleaseError: It isn't of the form 1.2.3, or a file has no version.
    """
    if not re.fullmatch(_VERSION, version, re.ASCII):
        raise ReleaseError(f"{version!r} is not a version; write three numbers, such as 0.2.0")
    for name, pattern in _FILES.items():
        file = root / name
        text, count = pattern.subn(rf"\g<1>{version}\g<3>", file.read_text(encoding="utf-8"))
        if not count:
            raise ReleaseError(f"{name}: has no version")
        file.write_text(text, encoding="utf-8")


def check_release(tag: str, root: Path = ROOT) -> str:
    """Return the version of *tag*, if everything in the checkout agrees with it.

    Raises:
        ReleaseError: Something doesn't; the text has a line for each.
    """
    version = _version_of(tag)
    mistakes = [
        f"{name}: has {', '.join(found) or 'no version'}; type: python -m devtools.release set {version}"
        for name, pattern in _FILES.items()
        if (found := sorted({match[2] for match in pattern.finditer((root / name).read_text(encoding="utf-8"))}))
        != [version]
    ]
    heading = _find_section(version, root)[0]
    if not re.fullmatch(rf"## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", heading):
        mistakes.append(f"CHANGELOG.md: the heading is {heading!r}; write: ## {version} (YYYY-MM-DD)")
    if mistakes:
        raise ReleaseError("\n".join(mistakes))
    return version


def release_notes(tag: str, repository: str, root: Path = ROOT) -> str:
    """The changelog's section of the version of *tag*, without its heading; its links lead to the tag's files.

    Args:
        tag: The tag, such as v0.2.0.
        repository: Where the files are, such as https://github.com/acme/mcpfleet.
        root: The checkout.

    Raises:
        ReleaseError: The changelog has no such section.
    """
    body = _find_section(_version_of(tag), root)[1]
    files = f"{repository}/blob/{tag}"
    body = re.sub(r"\]\(#", f"]({files}/CHANGELOG.md#", body)
    return re.sub(r"\]\((?!https?:)", f"]({files}/", body).strip() + "\n"


def _version_of(tag: str) -> str:
    if not re.fullmatch(rf"v{_VERSION}", tag, re.ASCII):
        raise ReleaseError(f"{tag!r} is not a tag of a release; write v and three numbers, such as v0.2.0")
    return tag[1:]


def _find_section(version: str, root: Path) -> tuple[str, str]:
    """The heading and the text of a version in the changelog."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(rf"^(## {re.escape(version)}(?: [^\n]*)?)$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ReleaseError(f"CHANGELOG.md: has no section of {version}; add: ## {version} (YYYY-MM-DD)")
    return found[1], found[2]


def main(arguments: list[str]) -> int:
    """Run a command; returns its exit code."""
    try:
        match arguments:
            case ["set", version]:
                set_version(version)
                print("Next: type uv lock, and write the changelog's heading.")
            case ["check", tag]:
                print(check_release(tag))
            case ["notes", tag, repository]:
                print(release_notes(tag, repository), end="")
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except ReleaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
