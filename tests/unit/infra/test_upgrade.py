"""An upgrade replaces and deletes nothing that an earlier version deployed, as docs/releases.md promises.

`deployed/VERSION.json` is what a version registered for `deployed/fleet.yaml`: each resource by the end of its URN (its
types and its name), with its inputs if it is one of Google's. To write the file of a version, type in its checkout:

    python tests/unit/infra/test_upgrade.py > tests/unit/infra/deployed/VERSION.json
"""

import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
DEPLOYED = Path(__file__).parent / "deployed"
STACK = "pulumi:pulumi:Stack"
NAMED_IN_THE_CHANGELOG = {"0.1.0-29649d6": set()}
"""What an upgrade from each version replaces or deletes, by the end of the URN."""


def deploy_fleet(deploy):
    fleet = yaml.safe_load((DEPLOYED / "fleet.yaml").read_text())
    config = {"gcp:project": "acme-dev", "mcpfleet:fleet": json.dumps(fleet)}
    return deploy(lambda: runpy.run_path(str(ROOT), run_name="__main__"), config=config)


def urns_of(plan):
    """The ends of the URNs that each resource may have in a state, its own first: the engine's rules for aliases."""
    known = {(one.type, one.name): one for one in plan.resources if one.type != STACK}

    def urns(one):
        parent = known.get(one.parent)
        types = [""] if parent is None else [f"{urn.partition('::')[0]}$" for urn in urns(parent)]
        found = [f"{above}{one.type}::{one.name}" for above in types]
        return [*found, *(urn for alias in one.aliases for urn in urns_of_alias(one, alias))]

    return [(one, urns(one)) for one in known.values()]


def urns_of_alias(one, alias):
    if isinstance(alias, str) or alias.urn:
        return [(alias if isinstance(alias, str) else alias.urn).split("::", 2)[2]]
    type_, name = alias.spec.type or one.type, alias.spec.name or one.name
    parent = alias.spec.parentUrn.split("::")[2:3]
    above = "" if alias.spec.noParent or parent in ([], [STACK]) else f"{parent[0]}$"
    return [f"{above}{type_}::{name}"]


def record(plan):
    """What a version's file has: inputs by the ends of URNs."""
    return {
        urns[0]: one.inputs if one.type.startswith("gcp:") else None
        for one, urns in sorted(urns_of(plan), key=lambda pair: pair[1][0])
    }


@pytest.fixture(scope="module")
def plan(deploy):
    return deploy_fleet(deploy)


@pytest.mark.parametrize("version", NAMED_IN_THE_CHANGELOG)
def test_an_upgrade_replaces_and_deletes_only_what_the_changelog_names(plan, version):
    from tests.unit.infra.provider_diff import configured_provider, find_replacement

    state, provider = json.loads((DEPLOYED / f"{version}.json").read_text()), configured_provider()
    kept, replaced = set(), set()
    for one, urns in urns_of(plan):
        if (urn := next(filter(state.__contains__, urns), None)) is None:
            continue
        kept.add(urn)
        if state[urn] is not None and find_replacement(provider, state[urn], one):
            replaced.add(urn)
    deleted = state.keys() - kept
    assert deleted | replaced == NAMED_IN_THE_CHANGELOG[version]


def test_each_earlier_version_has_its_resources_in_a_file():
    assert {file.stem for file in DEPLOYED.glob("*.json")} == NAMED_IN_THE_CHANGELOG.keys()


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "infra")]
    from tests.unit.infra.conftest import _deploy

    json.dump(record(deploy_fleet(_deploy)), sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")
