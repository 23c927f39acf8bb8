"""Tests of the tables of Google's APIs: they match their generator, and have a method for every route."""

import json

import pytest

from devtools.discovery import COMMAND, PACKAGE, hash_table, served_routes
from mcpfleet_local_cloud.rest.schemas import APIS, FOLDER, find_method, load_api, read_table

TABLES = sorted(set(APIS.values()))


@pytest.mark.parametrize("api", TABLES)
def test_a_table_matches_the_generators_output(api):
    table = read_table(api)

    assert (table["package"], table["sha256"]) == (PACKAGE, hash_table(table)), f"run {COMMAND}"
    assert json.dumps(table, indent=1) + "\n" == (FOLDER / f"{api}.json").read_text()


def test_every_route_of_a_google_api_has_its_method_in_a_table(running):
    known_routes = {(verb, path) for verb, path in served_routes() if find_method(verb, path)}
    missing = sorted(f"{verb} {path}" for verb, path in served_routes() - known_routes if "/compute/" not in path)

    assert missing == [], f"Google has no such method, or run {COMMAND}"
    # A route of Compute Engine stands for every collection; not each has every method.
    assert {path for _, path in served_routes()} - {path for _, path in known_routes} == {
        path
        for _, path in served_routes()
        if path.rpartition("/")[2].startswith("set") and not find_method("POST", path)
    }


def test_no_table_has_a_method_that_is_not_served():
    table_routes = {tuple(key.split(" ")) for api in TABLES for key in load_api(api).methods}

    assert table_routes <= served_routes(), f"run {COMMAND}"


@pytest.mark.parametrize("api", TABLES)
def test_every_schema_of_a_table_is_used_by_a_method_or_an_operation(api):
    api_tables = load_api(api)
    reached = {
        schema for method in api_tables.methods.values() for schema in (method.request, method.response) if schema
    }
    reached |= {name for name in api_tables.schemas if name.endswith(("Metadata", "Response", "ServiceIdentity"))}
    while (
        further := {
            kind.strip("[]{}!")
            for name in reached
            for kind in api_tables.schemas[name].values()
            if kind.strip("[]{}!") in api_tables.schemas
        }
        - reached
    ):
        reached |= further

    assert set(api_tables.schemas) == reached, f"run {COMMAND}"
