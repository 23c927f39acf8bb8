"""Google's schemas as the judge: what Google refuses in a field of a request is refused, and nothing is silent."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpfleet_local_cloud.rest.errors import GoogleError
from mcpfleet_local_cloud.rest.message_parser import fields_of, is_proto, parse_body, to_snake_case
from mcpfleet_local_cloud.rest.parameters import SYSTEM_PARAMETERS, bind_query, parameters_of
from mcpfleet_local_cloud.rest.schemas import APIS, Method, load_api
from mcpfleet_local_cloud.rest.supported_fields import FIELDS, QUERY, REASONS

TABLES = sorted(set(APIS.values()))
METHODS = {method.id: method for api in TABLES for method in load_api(api).methods.values()}
BODIES = {id_: method for id_, method in METHODS.items() if method.request}
RIGHT: dict[str, Any] = {
    "string": "x",
    "bool": True,
    "int32": 1,
    "uint32": 1,
    "int64": "1",
    "uint64": "1",
    "float": 0.5,
    "double": 0.5,
    "duration": "60s",
    "timestamp": "2026-01-31T12:00:00Z",
    "bytes": "eA==",
    "mask": "x",
    "any": 1,
}
WRONG: dict[str, list[Any]] = {
    "string": [1, True, {}, ["x"]],
    "bool": ["yes", 1, {}, [True]],
    "int32": ["x", 1.5, True, 2**31, [1]],
    "uint32": ["x", -1, 2**32, [1]],
    "int64": ["x", 1.5, True, 2**63, [1]],
    "uint64": ["x", -1, 2**64, [1]],
    "float": ["x", True, 1e300, [1.0]],
    "double": ["x", True, [1.0]],
    "duration": ["60", "soon", 60, ["1s"]],
    "timestamp": ["yesterday", "2026-01-31", 1, ["x"]],
    "bytes": ["=", "a\n", 5, ["eA=="]],
    "mask": ["a b", 5, ["x"]],
}


def right(api: str, kind: str) -> Any:
    """A value of that kind that is set."""
    if kind.startswith("["):
        return [right(api, kind[1:-1])]
    if kind.startswith("{"):
        return {"x": right(api, kind[1:-1])}
    if kind.startswith("enum "):
        return next(field for field in reversed(kind.removeprefix("enum ").split("|")) if "UNSPECIFIED" not in field)
    if kind in RIGHT:
        return RIGHT[kind]
    fields = [
        field
        for name, field in fields_of(api, kind).items()
        if name == field.name and field.support.level != "output_only"
    ]
    other_field = next((field for field in fields if field.kind != kind), None)
    return {other_field.name: right(api, other_field.kind)} if other_field else {}


def wrong(kind: str) -> Iterator[Any]:
    """Values that Google does not take for that kind."""
    if kind.startswith("["):
        yield from (5, "x", {"x": "x"}) if kind[1:-1] != "any" else ()
        yield from ([item] for item in wrong(kind[1:-1]) if not isinstance(item, list))
    elif kind.startswith("{"):
        yield from (5, "x")
        yield from ({"x": item} for item in wrong(kind[1:-1]) if not isinstance(item, list))
    elif kind.startswith("enum "):
        yield from ("NOPE", True, {}, ["NOPE"])
    elif kind in WRONG:
        yield from WRONG[kind]
    elif kind != "any":
        yield from (5, "x", [{}], {"nope": 1})


def requests(method: Method) -> Iterator[tuple[str, str, Any]]:
    """Path, kind, a maker of a body, and standing of each field of the request, within what is not refused."""

    def below(schema: str, path: str, wrap: Any, visited: tuple[str, ...]) -> Iterator[tuple[str, str, Any, str]]:
        for name, field in fields_of(method.api, schema).items():
            if name != field.name or field.support.level == "output_only":
                continue
            yield f"{path}{name}", field.kind, lambda value, n=name: wrap({n: value}), field.support.level
            inner = field.kind.strip("[]{}")
            if inner in load_api(method.api).schemas and inner not in visited and field.support.level != "refused":
                wrapper = {"[": lambda v: [v], "{": lambda v: {"x": v}}.get(field.kind[0], lambda v: v)
                yield from below(
                    inner, f"{path}{name}.", lambda value, n=name, a=wrapper: wrap({n: a(value)}), (*visited, inner)
                )

    return below(method.request, "", lambda body: body, (method.request,))


def status_of(method: Method, body: Any) -> int:
    try:
        parse_body(json.dumps(body).encode(), method)
    except GoogleError as refusal:
        return refusal.http_code
    return 200


@pytest.mark.parametrize("api", TABLES)
def test_field_values_that_google_refuses_are_refused(api):
    judged, accepted = Counter(), []
    for id_, method in BODIES.items():
        for path, kind, make, _ in requests(method) if method.api == api else ():
            for value in wrong(kind):
                judged[id_] += 1
                if status_of(method, make(value)) != 400:
                    accepted.append(f"{id_}: {path} ({kind}) = {value!r}")

    assert accepted == []
    assert judged or not [
        candidate for candidate in BODIES.values() if candidate.api == api and load_api(api).schemas[candidate.request]
    ]


@pytest.mark.parametrize("api", TABLES)
def test_only_unsupported_fields_with_a_value_are_refused(api):
    silent = [
        f"{id_}: {path}"
        for id_, method in BODIES.items()
        for path, kind, make, level in (requests(method) if method.api == api else ())
        if (level == "refused") != (status_of(method, make(right(api, kind))) == 501)
        # What is inside of a field may be refused while the field is not.
        and (level == "refused" or kind.strip("[]{}") not in load_api(api).schemas)
    ]

    assert silent == []


@pytest.mark.parametrize("id_", sorted(METHODS))
def test_query_parameters_are_parsed_by_type_and_unsupported_ones_refused(id_):
    method = METHODS[id_]
    parameters = parameters_of(method)
    for name, kind in {**method.query, **SYSTEM_PARAMETERS}.items():
        parameter = parameters[name]
        boolean_text = str(right(method.api, kind.removesuffix("*"))).lower() if kind.startswith("bool") else None
        value = boolean_text or str(right(method.api, kind.removesuffix("*")))
        for spelling in {name, to_snake_case(name)}:
            if parameter.support.level == "refused":
                with pytest.raises(GoogleError, match="does not support"):
                    bind_query(f"{spelling}={value}", parameters)
            else:
                assert bind_query(f"{spelling}={value}", parameters)
        for bad in ("NOPE",) if not kind.startswith("string") and kind.rstrip("*") != "mask" else ():
            with pytest.raises(GoogleError) as refused:
                bind_query(f"{name}={bad}", parameters)
            assert refused.value.http_code in (400, 501)
    with pytest.raises(GoogleError, match="Cannot bind query parameter"):
        bind_query("nope=1", parameters)


def test_errors_use_googles_field_names():
    """A name that no schema has would hide that a field of today's name is refused."""
    schemas: dict[tuple[str, str], set[str]] = {}
    for api in TABLES:
        for schema, fields in load_api(api).schemas.items():
            schemas.setdefault((api.partition(".")[0], schema), set()).update(fields)
    listed = {
        (api, schema, name.lstrip("-~"))
        for api, lines in FIELDS.items()
        for schema, line in lines.items()
        for name in line.split()
        if (api, schema) in schemas
    }
    parameters = {name for method in METHODS.values() for name in method.query} | set(SYSTEM_PARAMETERS) | {"upload_id"}

    shared = ("Policy", "SetIamPolicyRequest")  # not every API has a mask and audit logs there
    assert [entry for entry in listed if entry[2] not in schemas[entry[:2]] and entry[1] not in shared] == []
    assert {name.lstrip("-") for line in QUERY.values() for name in line.split()} - parameters == set()
    for reason in REASONS:
        api, schema, field = (*reason.split("."), "", "")[:3]
        if (api, schema) in schemas and field and schema[0].isupper() and reason.count(".") == 2:
            assert field in schemas[api, schema], reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_any_json_is_a_message_that_reparses_equally_or_a_clear_error(data):
    method = BODIES[data.draw(st.sampled_from(sorted(BODIES)))]
    fields = fields_of(method.api, method.request)
    body = data.draw(JSON | st.dictionaries(st.sampled_from(sorted(fields) or ["x"]), JSON, max_size=4))
    if status_of(method, body) != 200:
        assert status_of(method, body) in (400, 501)
        return
    parsed = parse_body(json.dumps(body).encode(), method)
    assert parse_body(json.dumps(parsed).encode(), method) == parsed


@pytest.mark.parametrize(
    ("id_", "field", "number", "name"),
    [
        ("cloudbuild.projects.builds.create", "options.logging", 4, "NONE"),
        ("cloudbuild.projects.builds.create", "options.logging", 5, "CLOUD_LOGGING_ONLY"),
        ("cloudbuild.projects.builds.create", "options.machineType", 7, "E2_MEDIUM"),
        ("artifactregistry.projects.locations.repositories.create", "format", 1, "DOCKER"),
        ("run.projects.locations.services.create", "launchStage", 3, "BETA"),
        ("run.projects.locations.services.create", "ingress", 2, "INGRESS_TRAFFIC_INTERNAL_ONLY"),
        ("artifactregistry.projects.locations.repositories.create", "format", 4, None),
        ("cloudbuild.projects.builds.create", "options.machineType", 3, None),
    ],
)
def test_an_enum_number_is_googles_value(id_, field, number, name):
    outer, _, inner = field.rpartition(".")
    body = json.dumps({outer: {inner: number}} if outer else {inner: number}).encode()
    if name is None:
        with pytest.raises(GoogleError, match=rf"Invalid value at .*, {number}"):
            parse_body(body, METHODS[id_])
    else:
        parsed = parse_body(body, METHODS[id_])
        assert (parsed[outer] if outer else parsed)[inner] == name


@pytest.mark.parametrize("id_", ["secretmanager.projects.secrets.create", "compute.urlMaps.insert"])
def test_a_duplicate_key_is_refused(id_):
    field = "labels" if is_proto(METHODS[id_].api) else "description"
    with pytest.raises(GoogleError, match="it is set twice"):
        parse_body(f'{{"{field}": null, "{field}": null}}'.encode(), METHODS[id_])
    if is_proto(METHODS[id_].api):
        with pytest.raises(GoogleError, match="it is set twice"):
            parse_body(b'{"versionAliases": {}, "version_aliases": {}}', METHODS[id_])
