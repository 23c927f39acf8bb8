"""The requirements of the images of the bridge and the login, which travel in the wheels, agree with `uv.lock`."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
REQUIREMENTS = {
    name: ROOT / "packages" / name / name.replace("-", "_") / "requirements.txt"
    for name in ("mcpfleet-bridge", "mcpfleet-login")
}
LOCKED = {item["name"]: item for item in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}


def needed(name, extras=()):
    """Return the dependencies of a package and its extras by the lock: names with their requested extras."""
    package, visited = LOCKED[name], {(name, tuple(extras))}
    todo = [*package.get("dependencies", ())]
    for extra in extras:
        todo += package["optional-dependencies"][extra]
    for requirement in todo:
        if (requirement["name"], tuple(requirement.get("extra", ()))) not in visited:
            visited |= needed(requirement["name"], requirement.get("extra", ()))
    return visited


@pytest.mark.parametrize("package", REQUIREMENTS)
def test_the_requirements_have_exactly_the_versions_and_hashes_of_the_lock(package):
    names = {name for name, _ in needed(package)}
    others = [LOCKED[name] for name in names if "registry" in LOCKED[name]["source"]]
    text = REQUIREMENTS[package].read_text()
    pinned = dict(re.findall(r"^([a-z0-9.-]+)==([^ ;\\]+)", text, re.MULTILINE))
    assert pinned == {locked["name"]: locked["version"] for locked in others}, "make it anew: its second line says how"
    files = [
        file
        for locked in others
        for file in (*locked.get("wheels", ()), *([locked["sdist"]] if "sdist" in locked else ()))
    ]
    assert set(re.findall(r"--hash=(\S+)", text)) == {file["hash"] for file in files}
