"""The corpus: layouts of repositories as they are found, and what is decided about each; and what is refused."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulumi_mcpfleet.sources import BuildOptions, BuildPlanError, Layout, plan_build
from pulumi_mcpfleet.sources.build_plan import BASE_IMAGE, UV_VERSION
from tests.corpus.corpus import CASES

# ruff: noqa: E501, RUF005
# Tables, which read best with a case to a line.

SCRIPT = '[project]\nname = "weather-mcp"\n[project.scripts]\nweather-mcp = "weather.server:main"\n'
BUILD = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
POETRY = '[tool.poetry]\nname = "weather"\n[tool.poetry.scripts]\nweather = "weather:main"\n' + BUILD


def package(**members):
    return json.dumps({"name": "weather", "version": "1.0.0", **members})


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items() if not case.refused])
def test_a_layout_is_built_as_its_people_would(case):
    plan = plan_build(case.layout, case.asked)
    decisions = "\n".join(plan.decisions)
    assert [part for part in case.decided if part not in decisions] == []
    if case.own:
        assert plan.dockerfile is None
        assert plan.dockerfile_path in case.files
        return
    assert [line for line in case.lines if line not in plan.dockerfile] == []
    assert [line for line in case.never if line in plan.dockerfile] == []
    assert "\nUSER 65532:65532\n" in plan.dockerfile, "it never runs as root"
    assert plan.dockerfile.count("\nFROM ") >= 2, "what builds it is not in the image"
    assert plan.dockerfile.startswith("ARG BASE_IMAGE=python:3.13-slim@sha256:")
    assert all(f"(`{key}`)" in decisions for key in ("language", "installer", "start")), "each decision names its key"


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items() if case.refused])
def test_what_cannot_be_decided_is_refused_with_the_keys_to_set(case):
    with pytest.raises(BuildPlanError) as refused:
        plan_build(case.layout, case.asked)
    messages = {mistake.key: mistake.message for mistake in refused.value.mistakes}
    assert messages.keys() == case.refused.keys(), messages
    assert all(part in messages[key] for key, part in case.refused.items()), messages


NAMES = st.sampled_from(
    [
        "pyproject.toml",
        "uv.lock",
        "requirements.txt",
        "package.json",
        "package-lock.json",
        "pnpm-lock.yaml",
        "yarn.lock",
    ]
    + ["server.py", "main.py", "poetry.lock", "src/a/__main__.py", "Dockerfile", "index.js", "setup.py", "pdm.lock"]
)
TEXTS = st.text(max_size=40) | st.sampled_from(
    [
        SCRIPT,
        BUILD,
        POETRY,
        "{}",
        package(bin=5),
        package(scripts=[]),
        package(engines={"node": [1]}),
        "[project]\nname=5\n",
    ]
    + ["[tool]\nuv=5\n", "[project]\nscripts='x'\n", "lockfileVersion: 9", package(engines={"node": "x - y || *"})]
)


@given(
    st.dictionaries(NAMES, TEXTS), st.sampled_from([None, "python", "node"]), st.sampled_from([None, "uv", "npm", ""])
)
def test_any_folder_ends_in_a_recipe_or_in_sentences(files, language, installer):
    try:
        plan = plan_build(Layout.from_files(files), BuildOptions(language=language, installer=installer or None))
    except BuildPlanError as refused:
        texts = [mistake.message for mistake in refused.mistakes]
    else:
        texts = [plan.dockerfile or plan.dockerfile_path, *plan.decisions]
    assert texts
    assert all(texts)


@pytest.mark.parametrize(
    ("allowed", "version"),
    [
        (">=18", "24"), ("^22.1.0", "22"), ("20.x", "20"), ("22", "22"), (">=20 <24", "22"), ("18 || 20", "20"),
        ("*", "24"), ("~22.20", "22"), ("<=22", "22"), ("20 - 22", "22"), ("v20", "20"), ("", "24"), (">=22.0.0-rc.1", "24"),
    ],
)  # fmt: skip
def test_the_newest_node_that_package_json_allows_is_taken(allowed, version):
    files = {"i.js": "", "package.json": package(engines={"node": allowed}, main="i.js"), "package-lock.json": "{}"}
    assert f"Node.js {version}." in plan_build(Layout.from_files(files), BuildOptions()).decisions[0]


def test_a_folder_on_disk_is_read_without_what_nobody_wrote(tmp_path):
    for name in (
        "server.py",
        "src/weather/__main__.py",
        ".venv/lib/x/__main__.py",
        "node_modules/a/package.json",
        "a/b/c/d.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "requirements.txt").write_text("mcp==2.3.0\n")
    layout = Layout.read(tmp_path)
    assert layout.names == {"server.py", "src/weather/__main__.py", "requirements.txt"}
    assert layout.texts == {"requirements.txt": "mcp==2.3.0\n"}


def test_the_base_image_is_the_reference_servers():
    root = Path(__file__).parents[4]
    for name in ("mcp_server", "mcp_client"):
        text = (root / name / "Dockerfile").read_text()
        assert f"ARG BASE_IMAGE={BASE_IMAGE}\n" in text
        assert f"ARG UV_VERSION={UV_VERSION}\n" in text
