"""Properties of the parser: it never fails otherwise than by `FleetError`, and what it accepts builds."""

import re

import pulumi
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import environment
from infra.components.foundation import Foundation, FoundationArgs
from infra.components.mcp_server import McpServer, McpServerArgs
from infra.fleet import FleetError, model, parse_fleet

ANY_TEXT = st.text(st.characters(), max_size=30) | st.sampled_from(["\ud800", "a\nb", "", "z", "/z", "allUsers", "NaN"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT
ANY_JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3)
)

# JSON with the vocabulary's own keys at random places goes deeper than JSON with random keys.
WORDS = sorted(
    {"echo", "region", "servers", "iam", "PORT"}
    | {key for kind in (model.Fleet, model.Server, model.Build, model.ExistingImage) for key in kind.model_fields}
)
NEAR_JSON = st.recursive(
    SCALARS | st.sampled_from(["europe-west1", "./x", "a/b", "1", "512Mi", "/mcp", "user:a@b.dev"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=40,
)


def one_server(**keys):
    return st.fixed_dictionaries(
        {
            "region": st.just("europe-west1"),
            "servers": st.fixed_dictionaries({"echo": st.fixed_dictionaries({}, optional=keys)}),
        }
    )


NEARLY_A_FLEET = one_server(**dict.fromkeys(model.Server.model_fields, NEAR_JSON | ANY_JSON))


@settings(max_examples=400, deadline=None)
@given(ANY_JSON | NEAR_JSON | NEARLY_A_FLEET)
def test_whatever_is_written_is_a_fleet_or_a_list_of_mistakes_each_under_its_path(raw):
    try:
        parse_fleet(raw)
    except FleetError as refused:
        for line in str(refused).split("\n"):
            assert re.match(r'fleet((\.[\w-]+)|(\[\d+\])|(\[".*"\]))*: \S', line), line
            assert line.isprintable(), "a control character would spoil the report"


NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,24}[a-z0-9]", fullmatch=True)
VARIABLES = st.from_regex(r"[A-Z][A-Z0-9_]{0,10}", fullmatch=True).filter(
    lambda name: name != "PORT" and name not in environment.INJECTED and not name.startswith(("K_", "X_GOOGLE_"))
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PATHS = st.sampled_from(["/", "/mcp", "/v1/mcp", "/a.b~c-d_e"])
MEMBERS = st.sampled_from(
    [
        "user:a@b.dev",
        "group:g@b.dev",
        "serviceAccount:s@p.iam.gserviceaccount.com",
        "domain:b.dev",
        "principal://iam.googleapis.com/x::y/z",
    ]
)
SOURCES = st.fixed_dictionaries(
    {"build": st.sampled_from(["./x", "a/b", "../c"])},
    optional={"build_args": st.dictionaries(VARIABLES, TEXT, max_size=2)},
) | st.fixed_dictionaries(
    {"image": st.sampled_from(["a", "docker.io/a/b:1", "a.dev/b@sha256:" + "0" * 64])},
    optional={
        "port": st.integers(1, 65535),
        "args": st.lists(TEXT, max_size=3),
        "command": st.lists(TEXT, max_size=3),
    },
)
SERVERS = st.fixed_dictionaries(
    {"source": SOURCES},
    optional={
        "access": st.fixed_dictionaries(
            {"iam": st.fixed_dictionaries({"invokers": st.lists(MEMBERS, unique=True, max_size=3)})}
        ),
        "path": PATHS,
        "health_path": st.none() | PATHS.map(lambda path: f"{path}x"),
        "timeout": st.integers(1, 3600),
        "cpu": st.sampled_from([1, 2, "1", "1000m"]),
        "memory": st.sampled_from(["512Mi", "1Gi", "1G"]),
        "concurrency": st.integers(1, 1000),
        "min_instances": st.integers(0, 3),
        "max_instances": st.integers(3, 1000),
        "startup_boost": st.booleans(),
        "env": st.dictionaries(VARIABLES, TEXT, max_size=3),
        "audiences": st.lists(st.sampled_from(["https://a.dev", "b"]), unique=True),
        "allowed_origins": st.lists(st.sampled_from(["https://a.dev", "http://b.dev:8080"]), unique=True),
        "description": TEXT,
        "deletion_protection": st.none() | st.booleans(),
    },
)
FLEETS = st.fixed_dictionaries(
    {
        "region": st.sampled_from(["europe-west1", "us-central1", "northamerica-northeast2"]),
        "servers": st.dictionaries(NAMES, SERVERS, min_size=1, max_size=3),
    },
    optional={"profile": st.sampled_from(["dev", "prod"]), "labels": st.dictionaries(NAMES, NAMES, max_size=2)},
)


@settings(max_examples=40, deadline=None)
@given(raw=FLEETS)
def test_what_is_accepted_the_components_build(deploy, raw):
    fleet = parse_fleet(raw)

    def program():
        foundation = Foundation("fleet", FoundationArgs(project="p", region=fleet.region, labels=fleet.labels))
        for name, spec in fleet.servers.items():
            McpServer(
                name,
                McpServerArgs(
                    project="p",
                    region=fleet.region,
                    foundation=foundation,
                    spec=spec,
                    deletion_protection=fleet.deletion_protection_of(spec),
                ),
            )

    plan = deploy(program)
    identities = [(r.parent, r.type, r.name) for r in plan.resources]
    assert len(identities) == len(set(identities)), "two resources of one name would stop the deployment"
    for name, spec in fleet.servers.items():
        scaling = plan.one("gcp:cloudrunv2/service:Service", name).inputs["template"]["scaling"]
        assert scaling == {"minInstanceCount": spec.min_instances, "maxInstanceCount": spec.max_instances}
        assert plan.container(name)["image"]
    assert pulumi.runtime.settings.get_root_resource() is None, "no run leaks into the next"
