"""Versions that a project would find in git's tags, which no build has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from pulumi_mcpfleet.sources.build_requirements import version_from_description, version_of

COMMIT = "c0ffee123"


@pytest.mark.parametrize(
    ("description", "version"),
    [
        (f"v1.2.0-0-g{COMMIT}", "1.2.0"),
        (f"v1.2.0-3-g{COMMIT}", f"1.2.1.dev3+g{COMMIT}"),
        (f"weather-mcp-v1.2-1-g{COMMIT}", f"1.3.dev1+g{COMMIT}"),
        (f"servers/weather/2.0.0rc1-0-g{COMMIT}", "2.0.0rc1"),
        (f"2.0.0rc1-4-g{COMMIT}", f"2.0.0rc1+4.g{COMMIT}"),
        (f"nightly-of-may5-2-g{COMMIT}", f"0.0.0+g{COMMIT}"),
        (COMMIT, f"0.0.0+g{COMMIT}"),
        ("", ""),
        ("fatal: no names found", ""),
    ],
)
def test_a_commit_has_the_version_that_setuptools_scm_would_give_it(description, version):
    assert version_from_description(description) == version


@given(st.text(max_size=60), st.integers(0, 10**6))
def test_whatever_a_tag_is_called_the_version_is_one(tag, commits):
    for version in (version_from_description(f"{tag}-{commits}-g{COMMIT}"), version_of(tag, COMMIT)):
        assert not version or str(Version(version)) == version
