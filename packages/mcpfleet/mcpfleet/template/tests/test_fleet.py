"""The fleet of every environment is right, as far as that can be known without a cloud."""

from pathlib import Path

import pytest

from pulumi_mcpfleet.projects import check_file

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("file", sorted(ROOT.glob("Pulumi.*.yaml")), ids=lambda file: file.name)
def test_the_fleet_has_no_mistakes(file):
    assert not check_file(file).mistakes
