"""What `pip-audit` and `npm audit` say: known weaknesses of what is locked, or that nobody could be asked.

Each asks a database on the network. Where that does not answer, nothing is known, and nothing fails for it: but it is
said. Both programs can be misread there: pip-audit finds "no known vulnerabilities" in packages that it had to skip.
"""

import json
from typing import Any, Final, cast

UNREACHED: Final = "its database could not be reached: nothing is known"


def python_weaknesses(output: str) -> list[str] | None:
    """A line for each, from the JSON of `pip-audit`; None where it could not ask of any package."""
    document = _last_object(output)
    entries: list[dict[str, Any]] = document.get("dependencies") or []
    asked = [one for one in entries if "vulns" in one]
    if not asked:
        return None
    return [
        f"{one['name']} {one['version']}: {weak['id']}, fixed in {', '.join(weak['fix_versions']) or 'nothing yet'}"
        for one in asked
        for weak in one["vulns"]
    ]


def npm_weaknesses(output: str) -> list[str] | None:
    """A line for each, from the JSON of `npm audit`; None where it could not ask."""
    found: Any = _last_object(output).get("vulnerabilities")
    if not isinstance(found, dict):
        return None
    return [
        f"{name} {one.get('range', '')}: {one.get('severity', 'unknown severity')}"
        for name, one in cast("dict[str, dict[str, Any]]", found).items()
    ]


def _last_object(output: str) -> dict[str, Any]:
    """The JSON object in what a program printed, whatever it said before and after; an empty one if there is none."""
    start = output.find("{")
    if start < 0:
        return {}
    try:
        found: object = json.JSONDecoder().raw_decode(output[start:])[0]
    except ValueError:
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
