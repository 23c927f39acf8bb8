"""`python -m devtools.licences`: checks that the licences of all locked packages are compatible with this project.

For Python, the installed packages are those of uv.lock; for npm, the lock file has the licences. Permissive licences
are accepted, and so is MPL-2.0, whose terms apply only to its own files. All others need an exception with its reason.
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
    "npm:@modelcontextprotocol/inspector": "its LICENSE has MIT, and Apache-2.0 for new code; only tests run it",
}
"""Packages with another licence in their metadata, and why they are accepted."""


def is_permissive(expression: str) -> bool:
    """Whether an SPDX expression or a classifier allows a permissive choice; of an `AND`, all parts must."""
    stripped = re.sub(r"^\((.*)\)$", r"\1", expression.strip())
    return any(
        all(_PERMISSIVE.fullmatch(part.strip()) for part in re.split(r"\s+AND\s+", choice))
        for choice in re.split(r"\s+OR\s+", stripped)
    )


def read_distribution_licences(distribution: Distribution) -> list[str]:
    """The licences in a Python package's metadata: the expression, or else the classifiers, or else the text."""
    metadata: Any = distribution.metadata
    if expression := metadata.get("License-Expression"):
        return [expression]
    classifiers: list[str] = metadata.get_all("Classifier") or []
    named = [classifier.rpartition(" :: ")[2] for classifier in classifiers if classifier.startswith("License ::")]
    text = str(metadata.get("License") or "").strip()
    return [classifier for classifier in named if classifier not in {"OSI Approved", "DFSG approved"}] or (
        [text] if text else []
    )


def find_rejected(packages: Iterable[tuple[str, list[str]]], exceptions: Mapping[str, str] = EXCEPTIONS) -> list[str]:
    """The packages whose licences are not all accepted, one line each."""
    return [
        f"{name}: {', '.join(licences) or 'no licence'}"
        for name, licences in packages
        if name not in exceptions and not (licences and all(is_permissive(licence) for licence in licences))
    ]


def read_npm_licences(lock: Mapping[str, Any]) -> Iterable[tuple[str, list[str]]]:
    """The packages of an npm lock file with their licences."""
    for path, entry in lock["packages"].items():
        if path:
            licence = entry.get("license")
            yield f"npm:{path.rpartition('node_modules/')[2]}", [str(licence)] if licence else []


def main() -> None:
    """Print all rejected packages; exits with code 1 if there are any."""
    lock = json.loads((Paths.from_environ({}).root / NPM_LOCK).read_text(encoding="utf-8"))
    python = ((rejected.name, read_distribution_licences(rejected)) for rejected in distributions())
    rejected = sorted({*find_rejected(python), *find_rejected(read_npm_licences(lock))})
    if rejected:
        sys.exit("\n".join(rejected))


if __name__ == "__main__":
    main()
