"""A release: the tag, every file and the changelog agree, and the workflow holds no secret and runs no foreign text."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from devtools import release

ROOT = Path(__file__).parents[3]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
STEPS = [(name, step) for name, job in WORKFLOW["jobs"].items() for step in job["steps"]]
CHANGELOG = """# Changelog

## 2.0.0 (2027-02-01)

### Added

- A key ([its page](docs/fleet.md#servers), [below](#200-2027-02-01), [Google](https://cloud.google.com)).

## 1.9.0 (2027-01-01)

- Something older.
"""


@pytest.fixture
def checkout(tmp_path):
    """A copy of the files that have the version, with a changelog of version 2.0.0."""
    for name in release._FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    return tmp_path


def test_a_version_that_is_set_everywhere_and_in_the_changelog_can_be_released(checkout):
    release.set_version("2.0.0", checkout)
    assert release.check_release("v2.0.0", checkout) == "2.0.0"


def test_every_file_with_another_version_is_named_with_the_next_step(checkout):
    (checkout / "CHANGELOG.md").write_text("## 2.0.0 (unreleased)\n")
    with pytest.raises(release.ReleaseError) as refusal:
        release.check_release("v2.0.0", checkout)
    lines = str(refusal.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [*release._FILES, "CHANGELOG.md"]
    assert all("devtools.release set 2.0.0" in line for line in lines[:-1])
    assert lines[-1].endswith("write: ## 2.0.0 (YYYY-MM-DD)")


def test_a_pin_between_our_distributions_that_has_another_version_is_named(checkout):
    release.set_version("2.0.0", checkout)
    file = checkout / "packages" / "mcpfleet-bridge" / "pyproject.toml"
    file.write_text(file.read_text().replace("mcpfleet-server[iap]==2.0.0", "mcpfleet-server[iap]==1.9.0"))
    message = r"^packages/mcpfleet-bridge/pyproject\.toml: has 1\.9\.0, 2\.0\.0; "
    with pytest.raises(release.ReleaseError, match=message):
        release.check_release("v2.0.0", checkout)


def test_no_other_file_of_the_checkout_has_the_version():
    names = {"__init__.py": release._CONSTANT, "pyproject.toml": release._PIN}
    folders = ("infra", "local_cloud", "packages")
    holders = {
        file.relative_to(ROOT).as_posix()
        for folder in folders
        for name, pattern in names.items()
        for file in (ROOT / folder).rglob(name)
        if pattern.search(file.read_text())
    }
    distributions = {
        f"{file.parent.relative_to(ROOT).as_posix()}/pyproject.toml" for file in ROOT.glob("*/pyproject.toml")
    }
    distributions |= {file.relative_to(ROOT).as_posix() for file in ROOT.glob("packages/*/pyproject.toml")}
    own = {name for name in distributions if name.startswith(folders)}
    assert holders | own | {"pyproject.toml"} == set(release._FILES)


def test_the_notes_are_the_section_of_the_version_with_links_to_the_tags_files(checkout):
    notes = release.release_notes("v2.0.0", "https://github.com/acme/mcpfleet", checkout)
    files = "https://github.com/acme/mcpfleet/blob/v2.0.0"
    assert notes == (
        f"### Added\n\n- A key ([its page]({files}/docs/fleet.md#servers),"
        f" [below]({files}/CHANGELOG.md#200-2027-02-01), [Google](https://cloud.google.com)).\n"
    )


@given(st.text() | st.from_regex(r"v?[0-9]+(\.[0-9]+){1,3}[-+a\n]?"))
def test_only_a_tag_of_three_numbers_is_a_release(tag):
    is_release = re.fullmatch(r"v(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)", tag)
    with pytest.raises(release.ReleaseError) as refusal:
        release.check_release(tag, ROOT / "nowhere") if not is_release else release.set_version(tag)
    assert repr(tag) in str(refusal.value)


def test_the_command_prints_one_error_and_exits_with_1(capsys):
    assert release.main(["check", "latest"]) == 1
    assert capsys.readouterr().err.startswith("error: 'latest' is not a tag of a release; ")
    assert release.main(["set"]) == release.main([]) == release.main(["publish", "v1.0.0"]) == 2


def test_every_action_is_pinned_by_its_commit():
    actions = [step["uses"] for _, step in STEPS if "uses" in step]
    assert len(actions) > 5
    assert [action for action in actions if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action)] == []


def test_no_step_puts_an_expression_into_a_script_and_no_secret_is_named():
    assert [step for _, step in STEPS if "${{" in step.get("run", "")] == []
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()


def test_each_job_has_only_the_permissions_that_it_needs():
    assert WORKFLOW["permissions"] == {}
    signs = {"id-token": "write", "attestations": "write"}
    assert {name: job["permissions"] for name, job in WORKFLOW["jobs"].items()} == {
        "build": {"contents": "read"},
        "test": {"contents": "read"},
        "pypi": signs,
        "image": {"contents": "read", "packages": "write", **signs},
        "notes": {"contents": "write"},
    }


def test_nothing_is_published_before_the_tests_have_passed():
    needs = {name: set(job.get("needs", ())) for name, job in WORKFLOW["jobs"].items()}
    assert needs["pypi"] == needs["image"] == {"build", "test"}
    assert needs["notes"] == {"pypi", "image"}
    assert WORKFLOW["jobs"]["pypi"]["environment"] == "pypi"


def test_the_workflow_uses_the_uv_version_of_the_images():
    version = re.search(r"ARG UV_VERSION=(\S+)", (ROOT / "packages/mcpfleet-bridge/Dockerfile").read_text())[1]
    assert WORKFLOW["env"] == {"UV_VERSION": version}
