"""What the bridge's image installs is what `uv.lock` holds: the file travels in the wheel, where no lock is."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
REQUIREMENTS = ROOT / "packages/mcpfleet-bridge/mcpfleet_bridge/requirements.txt"
LOCKED = {one["name"]: one for one in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}


def needed(name, extras=()):
    """What a package and its extras bring, by the lock; names with the extras that are asked of each."""
    package, seen = LOCKED[name], {(name, tuple(extras))}
    todo = [*package.get("dependencies", ())]
    for extra in extras:
        todo += package["optional-dependencies"][extra]
    for one in todo:
        if (one["name"], tuple(one.get("extra", ()))) not in seen:
            seen |= needed(one["name"], one.get("extra", ()))
    return seen


def test_it_holds_just_the_versions_and_hashes_of_the_lock():
    names = {name for name, _ in needed("mcpfleet-bridge")}
    others = [LOCKED[name] for name in names if "registry" in LOCKED[name]["source"]]
    text = REQUIREMENTS.read_text()
    held = dict(re.findall(r"^([a-z0-9.-]+)==([^ ;\\]+)", text, re.MULTILINE))
    assert held == {one["name"]: one["version"] for one in others}, "make it anew: its second line says how"
    files = [file for one in others for file in (*one.get("wheels", ()), *([one["sdist"]] if "sdist" in one else ()))]
    assert set(re.findall(r"--hash=(\S+)", text)) == {file["hash"] for file in files}
