"""`python -m devtools.licences`: whether everything that is locked may be used and passed on as this project is.

What is installed is what uv.lock says; for npm, the lock file itself names licences. Permissive ones pass, and MPL-2.0,
whose terms end at its own files. Any other needs an entry with its reason.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distributions
from typing import Any, Final

from mcpfleet_local_cloud.commands.paths import Paths

NPM_LOCK: Final = "devtools/clients/package-lock.json"

_PERMISSIVE: Final = re.compile(
    r"(MIT(-0)?|MIT License|ISC( License)?( \(ISCL\))?|(0|[23]-Clause )?BSD( License)?|0BSD|BSD-[23]-Clause"
    r"|Apache[ -]2\.0|Apache Software License|MPL-2\.0|Mozilla Public License 2\.0( \(MPL 2\.0\))?|PSF-2\.0"
    r"|Python Software Foundation License|BlueOak-1\.0\.0|CC0-1\.0|Unlicense|Zlib|CC-BY-4\.0|Python-2\.0"
    r"|Apache-2\.0 WITH LLVM-exception)"
)

EXCEPTIONS: Final[Mapping[str, str]] = {
    "npm:@modelcontextprotocol/inspector": "its LICENSE says MIT, and Apache-2.0 for what is new; only tests run it",
}
"""Packages whose licence is none of these by its metadata, and why they may stay."""


def permissive(expression: str) -> bool:
    """Whether an SPDX expression, or a classifier's words, leaves a permissive choice; all parts of an `AND` count."""
    bare = re.sub(r"^\((.*)\)$", r"\1", expression.strip())
    return any(
        all(_PERMISSIVE.fullmatch(part.strip()) for part in re.split(r"\s+AND\s+", one))
        for one in re.split(r"\s+OR\s+", bare)
    )


def of_distribution(found: Distribution) -> list[str]:
    """What a Python package's metadata says of its licence: the expression, else the classifiers, else the text."""
    metadata: Any = found.metadata
    if expression := metadata.get("License-Expression"):
        return [expression]
    classifiers: list[str] = metadata.get_all("Classifier") or []
    named = [one.rpartition(" :: ")[2] for one in classifiers if one.startswith("License ::")]
    text = str(metadata.get("License") or "").strip()
    return [one for one in named if one not in {"OSI Approved", "DFSG approved"}] or ([text] if text else [])


def refused(packages: Iterable[tuple[str, list[str]]], exceptions: Mapping[str, str] = EXCEPTIONS) -> list[str]:
    """A line for each package whose licence is none that passes; where it names several, each has to."""
    return [
        f"{name}: {', '.join(said) or 'says no licence'}"
        for name, said in packages
        if name not in exceptions and not (said and all(permissive(one) for one in said))
    ]


def of_npm(lock: Mapping[str, Any]) -> Iterable[tuple[str, list[str]]]:
    """The packages of a lock file of npm, with what each says."""
    for path, entry in lock["packages"].items():
        if path:
            licence = entry.get("license")
            yield f"npm:{path.rpartition('node_modules/')[2]}", [str(licence)] if licence else []


def main() -> None:
    """Print what is refused; exit code 1 where there is something."""
    lock = json.loads((Paths.from_environ({}).root / NPM_LOCK).read_text(encoding="utf-8"))
    python = ((found.name, of_distribution(found)) for found in distributions())
    found = sorted({*refused(python), *refused(of_npm(lock))})
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
