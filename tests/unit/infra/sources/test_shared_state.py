"""Which state the callers of a package or a repository are said to share."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulumi_mcpfleet.sources import BuildOptions
from pulumi_mcpfleet.sources.layout import Layout
from pulumi_mcpfleet.sources.planning import plan_build
from pulumi_mcpfleet.sources.shared_state import find_package_state, find_source_state


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("@playwright/mcp", "a browser"),
        ("@modelcontextprotocol/server-puppeteer", "a browser"),
        ("chrome-devtools-mcp", "a browser"),
        ("@modelcontextprotocol/server-sequential-thinking", "a history"),
        ("@modelcontextprotocol/server-memory", "a file (its memory)"),
        ("mcp-server-sqlite", "a file (a database)"),
        ("mcp-server-time", ""),
        ("memorystore-admin", ""),
        ("", ""),
    ],
)
def test_a_package_says_by_its_name_what_its_callers_share(name, shares):
    assert find_package_state(name) == shares


@pytest.mark.parametrize(
    ("files", "shares"),
    [
        ({"package.json": json.dumps({"dependencies": {"puppeteer-core": "24"}})}, "a browser"),
        ({"package.json": json.dumps({"devDependencies": {"playwright": "1"}})}, ""),
        ({"pyproject.toml": '[project]\nname = "a"\ndependencies = ["mcp", "Playwright[x]>=1; os_name"]'}, "a browser"),
        ({"requirements.txt": "mcp\n# playwright\naiosqlite==1\n"}, "a file (a database)"),
        ({"requirements.txt": "pytest-playwright\n-r selenium.txt\n"}, ""),
    ],
)
def test_a_repository_says_by_what_it_depends_on_what_its_callers_share(files, shares):
    assert find_source_state(Layout.from_files(files)) == shares


ANY = st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
MANIFESTS = st.dictionaries(
    st.sampled_from(["package.json", "pyproject.toml", "requirements.txt"]),
    st.text() | st.dictionaries(st.sampled_from(["dependencies", "project"]), ANY).map(json.dumps),
)


@given(MANIFESTS)
def test_no_manifest_keeps_a_repository_with_a_dockerfile_from_being_built(files):
    assert (
        plan_build(Layout.from_files({**files, "Dockerfile": "FROM scratch"}), BuildOptions()).dockerfile_path
        == "Dockerfile"
    )
