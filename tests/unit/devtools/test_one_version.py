"""One version for everything that is released together: a user pins it once."""

import itertools
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
FOLDERS = [ROOT / "infra", ROOT / "local_cloud", *sorted((ROOT / "packages").iterdir())]
PROJECTS = [tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in FOLDERS]


def test_all_distributions_have_the_same_version():
    workspace = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert len(PROJECTS) == 6
    assert {project["version"] for project in PROJECTS} == {workspace["version"]}


def test_our_distributions_need_each_other_in_that_version():
    names = {project["name"] for project in PROJECTS}
    lists = [
        [*project["dependencies"], *itertools.chain(*project.get("optional-dependencies", {}).values())]
        for project in PROJECTS
    ]
    needed = [Requirement(text) for text in itertools.chain(*lists)]
    pins = {str(requirement.specifier) for requirement in needed if requirement.name in names}
    assert pins == {f"=={PROJECTS[0]['version']}"}


def test_a_new_project_pins_that_version():
    names = "|".join(project["name"] for project in PROJECTS)
    template = ROOT / "packages" / "mcpfleet" / "mcpfleet" / "template"
    text = "".join(file.read_text() for file in template.rglob("pyproject.toml"))
    pins = re.findall(rf'"(?:{names})(?:\[\w+\])?(?:==([\w.]+))?"', text)
    assert len(pins) == 4
    assert set(pins) == {PROJECTS[0]["version"]}
