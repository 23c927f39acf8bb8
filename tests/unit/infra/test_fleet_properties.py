"""Properties of the parser: it never fails otherwise than by `FleetError`, and what it accepts builds."""

import re

import pulumi
from hypothesis import given, settings
from hypothesis import strategies as st

from pulumi_mcpfleet import environment
from pulumi_mcpfleet.components.foundation import Foundation, FoundationInFleet, required_apis
from pulumi_mcpfleet.components.mcp_server import McpServer, ServerInFleet
from pulumi_mcpfleet.fleet import (
    Build,
    Client,
    ExistingImage,
    Fleet,
    FleetError,
    Server,
    access,
    built_source,
    git,
    parse_fleet,
    parts,
    stdio,
    volumes,
)

ANY_TEXT = st.text(st.characters(), max_size=30) | st.sampled_from(["\ud800", "a\nb", "", "z", "/z", "allUsers", "NaN"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT
ANY_JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3)
)

MODELS = (
    *(Fleet, Server, Client, Build, ExistingImage, access.Iap, access.Oauth, access.Public),
    *(parts.SecretRef, parts.Sidecar, parts.Probe, parts.Grpc),
    *(volumes.InMemory, volumes.OnDisk, volumes.GcsVolume, volumes.Gcs),
    *(volumes.SecretVolume, volumes.Item, volumes.NfsVolume, volumes.Nfs),
    *(parts.Probes, parts.Vpc),
    *(built_source.Folder, built_source.ImageFile, git.Git, git.GitRepository, stdio.Stdio, stdio.StdioServer),
)

# JSON with the vocabulary's own keys at random places goes deeper than JSON with random keys.
WORDS = sorted(
    {"echo", "region", "servers", "PORT", *access.KINDS} | {key for kind in MODELS for key in kind.model_fields}
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


NEARLY_A_FLEET = one_server(**dict.fromkeys(Server.model_fields, NEAR_JSON | ANY_JSON))


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
LABELS = st.from_regex(r"(?!goog)[a-z][a-z0-9_-]{0,20}", fullmatch=True)
VARIABLES = st.from_regex(r"[A-Z][A-Z0-9_]{0,10}", fullmatch=True).filter(
    lambda name: name != "PORT" and name not in environment.INJECTED and not name.startswith(("K_", "X_GOOGLE_"))
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PATHS = st.sampled_from(["/", "/mcp", "/v1/mcp", "/a.b~c-d_e"])
PINNED = "a.pkg.dev/b@sha256:" + "0" * 64
SECRETS = st.fixed_dictionaries(
    {"secret": st.sampled_from(["a", "projects/vault/secrets/b"]), "version": st.sampled_from(["1", 2, "latest"])}
)
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
    optional={"build_args": st.dictionaries(VARIABLES, TEXT.filter(lambda text: "\0" not in text), max_size=2)},
) | st.fixed_dictionaries(
    {"image": st.just(PINNED)},
    optional={
        "port": st.integers(2, 64_999),  # 1 is where the sidecar below listens
        "args": st.lists(TEXT, max_size=3),
        "command": st.lists(TEXT, max_size=3),
    },
)
CLIENTS = st.just({"client_id": "1-a.apps.googleusercontent.com", "secret": "iap", "version": "1"})
ACCESS = st.one_of(
    st.fixed_dictionaries({"iam": st.fixed_dictionaries({"invokers": st.lists(MEMBERS, unique=True, max_size=3)})}),
    st.fixed_dictionaries(
        {
            "iap": st.fixed_dictionaries(
                {"members": st.lists(MEMBERS, unique=True, max_size=3)},
                optional={
                    "oauth_client": CLIENTS,
                    "programmatic_clients": st.just(["2-b.apps.googleusercontent.com"]),
                },
            )
        }
    ),
    st.just({"oauth": {"issuer": "https://login.b.dev", "scopes": ["mcp:use"]}}),
    st.just({"public": {"reason": "documentation without private data"}}),
)
PROBE = st.fixed_dictionaries(
    {},
    optional={
        "path": PATHS,
        "port": st.integers(1, 65535),
        "failures": st.integers(1, 20),
        "period": st.integers(1, 9),
    },
)
RUNNING = st.fixed_dictionaries(
    {"path": PATHS, "period": st.integers(2, 9)}, optional={"port": st.integers(1, 65535), "failures": st.just(2)}
)
VOLUMES = st.fixed_dictionaries(
    {},
    optional={
        "cache": st.just({"memory": "64Mi", "mount": "/cache"}),
        "data": st.builds(
            lambda read_only: {"gcs": {"bucket": "b-1", "read_only": read_only}, "mount": "/data"}, st.booleans()
        ),
        "config": st.just({"secret": "c", "version": "1", "file": "tools.yaml", "mount": "/config"}),
        "certs": st.just({"secret": "c", "items": {"a/b.pem": {"version": 2, "mode": "0400"}}, "mount": "/etc/certs"}),
    },
)
SIDECARS = st.fixed_dictionaries(
    {},
    optional={
        "redis": st.just(
            {"image": PINNED, "startup": {"port": 1}, "secrets": {"/keys/a": {"secret": "a", "version": 1}}}
        ),
        "agent": st.just({"image": PINNED, "cpu": 0.5, "env": {"A": "b"}, "args": ["-v"], "command": ["/x"]}),
    },
)
SERVERS = st.fixed_dictionaries(
    {"source": SOURCES},
    optional={
        "access": ACCESS,
        "path": PATHS,
        "health_path": st.none() | PATHS.map(lambda path: f"{path}x"),
        "timeout": st.integers(1, 3600),
        "cpu": st.sampled_from([1, 2, "1", "1000m"]),
        "memory": st.sampled_from(["512Mi", "1Gi", "1G"]),
        "concurrency": st.integers(1, 1000),
        "min_instances": st.integers(0, 3),
        "max_instances": st.integers(3, 1000),
        "startup_boost": st.booleans(),
        "execution_environment": st.sampled_from([None, "gen2"]),
        "env": st.dictionaries(VARIABLES.map(lambda name: f"E_{name}X"), TEXT, max_size=3),
        "secrets": st.dictionaries(VARIABLES, SECRETS, max_size=2)
        | st.just(
            {"/run/keys/a.json": {"secret": "a", "version": "1"}, "/etc-keys/b": {"secret": "b", "version": "2"}}
        ),
        "volumes": VOLUMES,
        "sidecars": SIDECARS,
        "probes": st.fixed_dictionaries(
            {}, optional={"startup": PROBE, "liveness": RUNNING, "readiness": RUNNING, "restart": st.booleans()}
        ),
        "cpu_throttling": st.booleans(),
        "session_affinity": st.booleans(),
        "cloudsql_instances": st.just(["acme-dev:europe-west1:tools"]),
        "binary_authorization": st.sampled_from(["default", "projects/acme-dev/platforms/cloudRun/own"]),
        "labels": st.dictionaries(LABELS, LABELS, max_size=2),
        "annotations": st.just({"acme.dev/owner": "ada"}),
        "service_account": st.just("own@p.iam.gserviceaccount.com"),
        "roles": st.sampled_from(
            [[], ["roles/a.b"], ["roles/a.b", {"role": "projects/p/roles/c", "reason": "reads the one table"}]]
        ),
        "ingress": st.sampled_from(["all", "internal-and-lb"]),
        "vpc": st.sampled_from([{"network": "n"}, {"subnetwork": "s", "tags": ["t"], "all_traffic": True}]),
        "default_url": st.just(True),
        "agent_registry": st.sampled_from([None, "functional-type", "entry"]),
        "audiences": st.lists(st.sampled_from(["https://a.dev", "b"]), unique=True),
        "allowed_origins": st.lists(st.sampled_from(["https://a.dev", "http://b.dev:8080"]), unique=True),
        "description": TEXT,
        "deletion_protection": st.booleans(),
    },
)
WHERE = st.sampled_from([["europe-west1"], ["us-central1"], ["europe-west1", "northamerica-northeast2"]])


@st.composite
def fleets(draw):
    servers = draw(st.dictionaries(NAMES, SERVERS, min_size=1, max_size=3))
    regions = draw(WHERE)
    if len(regions) > 1 or draw(st.booleans()):
        servers = {name: {**server, "domain": f"{name}.acme.dev"} for name, server in servers.items()}
    registry = draw(st.sampled_from([{}, {"keep": 3, "dry_run": True}, {"remote": "ghcr.io", "repository": "r"}]))
    return {
        "regions": regions,
        "organization": "481516234200",
        "profile": draw(st.sampled_from(["dev", "prod"])),
        "labels": draw(st.dictionaries(LABELS, LABELS, max_size=2)),
        "registry": registry,
        "servers": servers,
    }


@settings(max_examples=40, deadline=None)
@given(raw=fleets())
def test_what_is_accepted_the_components_build(deploy, raw):
    fleet = parse_fleet(raw)

    def program():
        foundation = Foundation.in_fleet(
            "fleet",
            FoundationInFleet(
                project="p", region=fleet.all_regions[0], apis=required_apis(fleet), registry=fleet.registry
            ),
        )
        for name, spec in fleet.servers.items():
            McpServer.in_fleet(
                name, ServerInFleet(project="p", regions=fleet.all_regions, foundation=foundation, spec=spec)
            )

    plan = deploy(program)
    identities = [(r.parent, r.type, r.name) for r in plan.resources]
    assert len(identities) == len(set(identities)), "two resources of one name would stop the deployment"
    services = plan.of("gcp:cloudrunv2/service:Service")
    assert len(services) == len(fleet.servers) * len(fleet.all_regions)
    for service in services:
        revision = service.inputs["template"]
        volumes = [volume["name"] for volume in revision.get("volumes", [])]
        assert len(volumes) == len(set(volumes))
        mounts = [mount["name"] for container in revision["containers"] for mount in container.get("volumeMounts", [])]
        assert set(mounts) == set(volumes), "a volume that nothing mounts, or a mount of none, is refused by Cloud Run"
        assert sum("ports" in container for container in revision["containers"]) == 1
    assert pulumi.runtime.settings.get_root_resource() is None, "no run leaks into the next"
