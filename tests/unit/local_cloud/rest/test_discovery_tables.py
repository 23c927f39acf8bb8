"""The tables of Google's APIs: what is kept is what the generator made, and every route has its method there."""

import json

import pytest

from devtools.discovery import COMMAND, PACKAGE, digest, served
from mcpfleet_local_cloud.rest.schemas import APIS, FOLDER, find_method, load_api, read_table

TABLES = sorted(set(APIS.values()))


@pytest.mark.parametrize("api", TABLES)
def test_a_table_is_as_the_generator_wrote_it(api):
    kept = read_table(api)

    assert (kept["package"], kept["sha256"]) == (PACKAGE, digest(kept)), f"run {COMMAND}"
    assert json.dumps(kept, indent=1) + "\n" == (FOLDER / f"{api}.json").read_text()


def test_every_route_of_a_google_api_has_its_method_in_a_table(running):
    found = {(verb, path) for verb, path in served() if find_method(verb, path)}
    missing = sorted(f"{verb} {path}" for verb, path in served() - found if "/compute/" not in path)

    assert missing == [], f"Google has no such method, or run {COMMAND}"
    # A route of Compute Engine stands for every collection; not each has every method.
    assert {path for _, path in served()} - {path for _, path in found} == {
        path for _, path in served() if path.rpartition("/")[2].startswith("set") and not find_method("POST", path)
    }


def test_no_table_has_a_method_that_is_not_served():
    kept = {tuple(key.split(" ")) for api in TABLES for key in load_api(api).methods}

    assert kept <= served(), f"run {COMMAND}"


@pytest.mark.parametrize("api", TABLES)
def test_every_schema_of_a_table_is_reached_from_a_method_or_an_operation(api):
    found = load_api(api)
    reached = {one for method in found.methods.values() for one in (method.request, method.response) if one}
    reached |= {name for name in found.schemas if name.endswith(("Metadata", "Response", "ServiceIdentity"))}
    while (
        more := {
            kind.strip("[]{}!")
            for name in reached
            for kind in found.schemas[name].values()
            if kind.strip("[]{}!") in found.schemas
        }
        - reached
    ):
        reached |= more

    assert set(found.schemas) == reached, f"run {COMMAND}"
