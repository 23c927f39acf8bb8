"""Every mistake a user can make in `mcpfleet:fleet`, and the one line that each of them gets."""

import json

import pydantic
import pytest

from mcpfleet_local_cloud.services.run import locations
from pulumi_mcpfleet.fleet import Build, ExistingImage, FleetError, parse_fleet, values
from pulumi_mcpfleet.fleet.cloud_run_terms import TERMS

DIGEST = "sha256:" + "0a" * 32
SOURCE = {"source": {"image": "docker.io/acme/toolbox:1"}}


def fleet(server=None, **keys):
    """A valid fleet but for what is given: keys of the fleet, or of its server `echo`."""
    return {"region": "europe-west1", "servers": {"echo": {**SOURCE, **(server or {})}}, **keys}


def mistakes(raw, **options):
    with pytest.raises(FleetError) as refused:
        parse_fleet(raw, **options)
    return str(refused.value).splitlines()


def server(**keys):
    return parse_fleet(fleet(keys)).servers["echo"]


# --- what is accepted -------------------------------------------------------------------------------


def test_a_server_needs_only_a_source():
    echo = server()
    assert echo.source == ExistingImage(image="docker.io/acme/toolbox:1", port=8080)
    assert echo.access.iam.invokers == ()
    assert (echo.path, echo.timeout, echo.concurrency) == ("/mcp", 3600, 80)
    assert (echo.cpu, echo.memory) == ("1", "512Mi")
    assert (echo.min_instances, echo.max_instances, echo.startup_boost) == (0, 3, True)
    assert (echo.env, echo.audiences, echo.allowed_origins, echo.description) == ({}, (), (), "")


def test_a_server_that_we_build_has_a_known_health_path_and_an_existing_image_has_not():
    assert server(source={"build": "./x"}).health_path == "/health"
    assert server().health_path is None
    assert server(health_path="/ready").health_path == "/ready"


def test_source_kinds_are_told_apart_by_their_one_key():
    assert server(source={"build": "./x", "build_args": {"A": "1"}}).source == Build(build="./x", build_args={"A": "1"})
    assert isinstance(server(source={"image": "a/b", "args": ["-v"]}).source, ExistingImage)


def test_what_was_parsed_cannot_be_changed():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        server().timeout = 1


def test_servers_keep_the_order_of_the_file():
    raw = {"region": "europe-west1", "servers": dict.fromkeys(("zeta", "alpha", "mid"), SOURCE)}
    assert list(parse_fleet(raw).servers) == ["zeta", "alpha", "mid"]


@pytest.mark.parametrize(
    ("profile", "configured", "protected"),
    [("dev", None, False), ("prod", None, True), ("dev", True, True), ("prod", False, False)],
)
def test_deletion_protection_is_the_servers_word_else_the_profiles(profile, configured, protected):
    keys = {} if configured is None else {"deletion_protection": configured}
    pinned = {"source": {"image": f"docker.io/acme/toolbox@{DIGEST}"}}
    assert parse_fleet(fleet({**pinned, **keys}, profile=profile)).servers["echo"].deletion_protection is protected


@pytest.mark.parametrize(
    ("written", "cpu"), [("2", "2"), (2, "2"), (1.0, "1"), (0.5, "0.5"), ("500m", "500m"), (8, "8")]
)
def test_cpu_may_be_text_or_a_number(written, cpu):
    assert (
        server(cpu=written, memory="1Gi" if cpu == "2" else "4Gi" if cpu == "8" else "512Mi", concurrency=1).cpu == cpu
    )


@pytest.mark.parametrize(
    "member",
    [
        "user:ada@acme.dev",
        "group:team@acme.dev",
        "serviceAccount:a@p.iam.gserviceaccount.com",
        "domain:acme.dev",
        "principal://iam.googleapis.com/locations/global/workforcePools/p/subject/ada@acme.dev",
        "principalSet://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/*",
    ],
)
def test_every_kind_of_principal_may_invoke(member):
    assert server(access={"iam": {"invokers": [member]}}).access.iam.invokers == (member,)


@pytest.mark.parametrize(
    "image",
    [
        "toolbox",
        "docker.io/acme/toolbox:1",
        "127.0.0.1:8470/europe-west1/p/mcpfleet/echo",
        "europe-docker.pkg.dev/a/b/c:v1@sha256:" + "0a" * 32,
        "europe-docker.pkg.dev/a/b/c@sha256:" + "0a" * 32,
    ],
)
def test_images_are_named_as_everywhere(image):
    assert server(source={"image": image}).source.image == image


# --- what is refused: (server's keys, the line) ------------------------------------------------------

PATH = "fleet.servers.echo"
REFUSED = [
    # unknown keys and kinds
    ({"max_instnces": 1}, "max_instnces: unknown key; did you mean max_instances?"),
    ({"source": {"build": "./x", "prt": 1}}, "source.prt: unknown key; did you mean port?"),
    ({"source": {"image": "a/b", "prt": 1}}, "source.prt: unknown key; did you mean port?"),
    ({"source": {"build": "./x", "port": 0}}, "source.port: "),
    ({"source": {"stdio": {"npm": "a@1.0.0", "bounds": ["mcp<2"]}}}, "source.stdio.bounds: is for a package of PyPI"),
    ({"source": {"stdio": {"pypi": "a==1", "overrides": {"a": "1"}}}}, "source.stdio.overrides: is for a package of n"),
    (
        {"source": {"stdio": {"pypi": "a==1", "copy_from": {"/bin/k": {"image": "a/b:1", "path": "/k"}}}}},
        'source.stdio.copy_from["/bin/k"].image: a/b:1 names a tag, which can move; write the digest',
    ),
    (
        {
            "source": {"stdio": {"pypi": "a==1", "writable": ["/data"]}},
            "volumes": {"v": {"memory": "64Mi", "mount": "/data"}},
        },
        "volumes.v: is mounted at /data, where a folder of `writable` is already",
    ),
    ({"source": {"stdio": {"pypi": "a==1", "install_scripts": ["a"]}}}, "source.stdio.install_scripts: is for a packa"),
    (
        {"source": {"stdio": {"pypi": "a==1"}, "build_args": {"BASE_IMGE": "b"}}},
        "source.build_args.BASE_IMGE: is not an ARG of the Dockerfile that is",
    ),
    (
        {
            "source": {
                "folder": "./x",
                "builder": "cloud-build",
                "build_secrets": {"A": {"secret": "a", "version": "1"}},
            }
        },
        "source.build_secrets: are not supported with Cloud Build; remove",
    ),
    ({"source": {"folder": "./x", "bounds": ["mcp < 2"]}}, "source.bounds[0]: 'mcp < 2' is not a requirement;"),
    ({"source": {"folder": "./x", "before": "June"}}, "source.before: 'June' is not a date; write it as 2026-06-30"),
    ({"source": {"folder": "./x", "extras": ["a b"]}}, "source.extras[0]: 'a b' is not the name of an extra"),
    ({"source": {"folder": "./x", "package": "-x"}}, "source.package: '-x' is not a package's name or folder"),
    ({"source": {"folder": "./x", "target": "a b"}}, "source.target: 'a b' is not a stage's name"),
    ({"source": {"svn": {}}}, "source: unknown kind of source: 'svn'; available: build, image, folder, git, stdio"),
    ({"source": {"biuld": "./x"}}, "source: unknown kind of source: 'biuld'; did you mean build?"),
    ({"source": {}}, "source: is empty; say which kind of source: build | image | folder | git | stdio"),
    ({"source": {"build": "./x", "image": "a/b"}}, "source: has build and image together; keep only one"),
    ({"source": None}, "source: nothing (null) is not a mapping; write source: {build: ./my_server}, or"),
    ({"source": "./x"}, 'source: "./x" is not a mapping; write source: {build: ./my_server}, or one of image, folder'),
    ({"source": {"npm": "a@1"}}, "source: write npm as fleet.servers.echo.source.stdio.npm"),
    ({"source": {"image": "a/b", "env": {}}}, "source.env: unknown key; write it as fleet.servers.echo.env"),
    ({"network": "a"}, "network: unknown key; write it as fleet.servers.echo.vpc.network"),
    ({"startup": {}}, "startup: unknown key; write it as fleet.servers.echo.probes.startup"),
    ({"maxInstances": 1}, "maxInstances: unknown key; did you mean max_instances?"),
    ({"--max-instances": 1}, "--max-instances: unknown key; did you mean max_instances?"),
    # words of Cloud Run's, whose nearest word by its letters is another thing
    ({"containerConcurrency": 1}, "containerConcurrency: unknown key; write concurrency"),
    ({"no-allow-unauthenticated": True}, "no-allow-unauthenticated: unknown key; write access: {public: {reason: …}}"),
    ({"gpu-type": "nvidia-l4"}, "gpu-type: unknown key; write gpu: nvidia-l4"),
    ({"connector": "c"}, "connector: unknown key; write it as fleet.servers.echo.vpc.connector"),
    ({"sidecars": {"a": {"image": "a/b", "gpu": 1}}}, "sidecars.a.gpu: unknown key; write it as fleet.servers.ec"),
    ({"traffic": []}, "traffic: unknown key; all requests go to the newest revision"),
    ({"probes": {"startup": {"periodSeconds": 1}}}, "probes.startup.periodSeconds: unknown key; write period"),
    ({"volumes": {"v": {"emptyDir": {}, "mount": "/v"}}}, "volumes.v: unknown kind of volume: 'emptyDir'; write memo"),
    (
        {"source": {"git": {"url": "https://a.dev/b", "ref": "v1", "revision": "x"}}},
        "source.git.revision: unknown key; available: url, ref",
    ),
    ({"image": "a/b"}, "image: unknown key; write it as fleet.servers.echo.source.image"),
    ({"invokers": []}, "invokers: unknown key; write it as fleet.servers.echo.access.iam.invokers"),
    ({"access": {"invokers": []}}, "access: write invokers as fleet.servers.echo.access.iam.invokers"),
    ({"access": "public"}, 'access: "public" is not a mapping; write access: {public: {reason: documentation search'),
    (
        {"source": {"stdio": {"command": ["npx", "-y", "a"]}}},
        'source.stdio.command: npx would fetch a package whenever it starts; write npm: "a@VERSION", and what comes',
    ),
    (
        {"source": {"stdio": {"command": ["uvx"]}}},
        'source.stdio.command: uvx would fetch a package whenever it starts; write pypi: "NAME==VERSION", and what',
    ),
    (
        {"source": {"git": {"url": "https://ghp_token@github.com/a/b", "ref": "v1"}}},
        "source.git.url: holds a password or a token; remove all up to @",
    ),
    ({"access": {"publik": {}}}, "access: unknown kind of access: 'publik'; did you mean public?"),
    ({"access": []}, 'access: [] is not a mapping; write access: {iam: {invokers: ["group:mcp-users@'),
    ({"access": {"iam": {"invoker": []}}}, "access.iam.invoker: unknown key; did you mean invokers?"),
    # a source that is built
    ({"source": {"build": "/srv/x"}}, "source.build: '/srv/x' is not a relative path; write the"),
    ({"source": {"build": "~/x"}}, "source.build: '~/x' is not a relative path; write the"),
    ({"source": {"build": " "}}, "source.build: is empty; write a folder that holds a Dockerfile"),
    (
        {"source": {"build": "./x", "build_args": {"A-B": "1"}}},
        "source.build_args.A-B: 'A-B' is not a build argument's name; use letters",
    ),
    (
        {"source": {"build": "./x", "build_args": {"A": 1}}},
        "source.build_args.A: 1 is not text; put the text in quotes",
    ),
    # a source that exists
    ({"source": {"image": "https://a/b"}}, "source.image: 'https://a/b' is not an image; write [HOST/]PATH"),
    ({"source": {"image": "a/B"}}, "source.image: 'a/B' is not an image; write [HOST/]PATH"),
    ({"source": {"image": "a/b", "port": 0}}, "source.port: 0 is too small; write 1 or more"),
    ({"source": {"image": "a/b", "port": 65536}}, "source.port: 65536 is too large; write 65535 or less"),
    ({"source": {"image": "a/b", "port": True}}, "source.port: true is not a number; write a number"),
    ({"source": {"image": "a/b", "args": "-v"}}, 'source.args: "-v" is not a list; write args: ["-v"]'),
    ({"source": {"image": "a/b", "args": [5]}}, "source.args[0]: 5 is not text; put the text in quotes"),
    # access
    (
        {"access": {"iam": {"invokers": ["allUsers"]}}},
        "access.iam.invokers[0]: allUsers would let anybody call the server; name people",
    ),
    (
        {"access": {"iam": {"invokers": ["allAuthenticatedUsers"]}}},
        "access.iam.invokers[0]: allAuthenticatedUsers would let anybody call the server; name people",
    ),
    (
        {"access": {"iam": {"invokers": ["user:a@b.dev", "ada@acme.dev"]}}},
        "access.iam.invokers[1]: 'ada@acme.dev' is not a principal; write user:ADDRESS",
    ),
    (
        {"access": {"iam": {"invokers": ["user:a@b.dev", "user:A@b.dev"]}}},
        "access.iam.invokers: 'user:A@b.dev' is in the list twice; keep one",
    ),
    # paths
    ({"path": "mcp"}, "path: 'mcp' is not a path; write it as /mcp"),
    ({"path": "/mcp//"}, "path: '/mcp/' is not a path; write it as /mcp"),
    ({"path": "/a?b"}, "path: '/a?b' is not a path; write it as /mcp"),
    ({"path": "/quiz"}, "path: /quiz ends in z, and Google's front end answers such paths itself; write another"),
    ({"health_path": "/healthz"}, "health_path: /healthz ends in z, and Google's front end answers"),
    ({"health_path": "/mcp"}, "health_path: /mcp is the MCP endpoint already; give one of the two another path"),
    ({"source": {"build": "./x"}, "path": "/health"}, "health_path: /health is the MCP endpoint already; give"),
    # numbers
    ({"timeout": 0}, "timeout: 0 is too small; write 1 or more"),
    ({"timeout": 3601}, "timeout: 3601 is too large; write 3600 or less"),
    ({"timeout": "1h"}, 'timeout: "1h" is not a whole number; write one, without quotes'),
    ({"timeout": 1.5}, "timeout: 1.5 is not a whole number; write one, without quotes"),
    ({"timeout": None}, "timeout: nothing (null) is not a whole number; write one, without quotes"),
    ({"concurrency": 0}, "concurrency: 0 is too small; write 1 or more"),
    ({"concurrency": 1001}, "concurrency: 1001 is too large; write 1000 or less"),
    ({"min_instances": -1}, "min_instances: -1 is too small; write 0 or more"),
    ({"max_instances": 0}, "max_instances: 0 is too small; write 1 or more"),
    ({"max_instances": True}, "max_instances: true is not a number; write a number"),
    ({"min_instances": 2, "max_instances": 1}, "max_instances: 1 is below min_instances (2); raise it or lower"),
    ({"min_instances": 4}, "max_instances: 3 is below min_instances (4); raise it or lower"),
    # cpu and memory
    ({"cpu": "3"}, "cpu: '3' is not an amount of CPU that Cloud Run has; write"),
    ({"cpu": "0.01"}, "cpu: '0.01' is not an amount of CPU that Cloud Run has; write"),
    ({"cpu": "fast"}, "cpu: 'fast' is not an amount of CPU that Cloud Run has; write"),
    ({"cpu": True}, "cpu: true is not text; put the text in quotes"),
    ({"memory": 512}, 'memory: 512 has no unit; write it as "512Mi"'),
    ({"memory": "512"}, "memory: '512' is not an amount of memory; write it as"),
    ({"memory": "64Mi"}, "memory: 64Mi is out of range; Cloud Run has 128Mi to 32Gi, write for instance"),
    ({"memory": "33Gi"}, "memory: 33Gi is out of range; Cloud Run has 128Mi to 32Gi, write for instance"),
    ({"cpu": 4}, "memory: 512Mi is too little for 4 CPUs; Cloud Run wants 2048Mi or more"),
    ({"memory": "8Gi"}, 'memory: 8Gi is too much for 1 CPU; take less memory, or cpu: "2"'),
    ({"cpu": 2, "memory": "9Gi"}, 'memory: 9Gi is too much for 2 CPU; take less memory, or cpu: "4"'),
    (
        {"cpu": "0.5", "concurrency": 1, "memory": "2Gi"},
        "memory: 2Gi is too much for 0.5 CPU; take 1024Mi or less, or more cpu",
    ),
    ({"cpu": "0.5"}, "concurrency: 80 needs a whole CPU and cpu is 0.5; write concurrency: 1, or cpu: 1"),
    # switches and words
    ({"startup_boost": "maybe"}, 'startup_boost: "maybe" is neither true nor false; write one of them'),
    ({"deletion_protection": []}, "deletion_protection: [] is neither true nor false; write one of them"),
    ({"description": "x" * 513}, "description: is longer than 512 characters; shorten it"),
    ({"description": "\ud800"}, "description: has characters that are not Unicode text; remove them"),
    # env
    ({"env": {"PORT": "1"}}, "env.PORT: PORT is Cloud Run's own; remove it"),
    ({"env": {"K_SERVICE": "x"}}, "env.K_SERVICE: K_SERVICE is Cloud Run's own; remove it"),
    ({"env": {"X_GOOGLE_A": "x"}}, "env.X_GOOGLE_A: X_GOOGLE_A is Cloud Run's own; remove it"),
    ({"env": {"MCPFLEET_PATH": "/x"}}, "env.MCPFLEET_PATH: MCPFLEET_PATH is set by mcpfleet; remove it (set `path`)"),
    ({"env": {"MCPFLEET_ALLOWED_HOSTS": "*"}}, "env.MCPFLEET_ALLOWED_HOSTS: MCPFLEET_ALLOWED_HOSTS is set by mcpfleet"),
    ({"env": {"a b": "x"}}, "env[\"a b\"]: 'a b' is not a variable's name; use letters, digits and _"),
    ({"env": {"DEBUG": 1}}, "env.DEBUG: 1 is not text; put the text in quotes"),
    ({"env": ["A=1"]}, 'env: ["A=1"] is not a mapping; write env: {BIGQUERY_PROJECT: acme-mcp-dev}'),
    # audiences and origins
    ({"audiences": ["a b"]}, "audiences[0]: 'a b' is not an audience; write a URL"),
    ({"audiences": ["a", "a"]}, "audiences: 'a' is in the list twice; keep one"),
    ({"allowed_origins": ["*"]}, "allowed_origins[0]: '*' is not an origin; write https://HOST[:PORT]"),
    ({"allowed_origins": ["https://a.dev/x"]}, "allowed_origins[0]: 'https://a.dev/x' is not an origin; write"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "line"), REFUSED, ids=[line[:60] for _, line in REFUSED])
def test_a_mistake_in_a_server_is_one_line_under_its_path(keys, line):
    (only,) = mistakes(fleet(keys))
    assert only.startswith(f"{PATH}.{line}")


@pytest.mark.parametrize("word", TERMS)
def test_a_word_of_cloud_runs_is_not_answered_with_what_only_looks_like_it(word):
    (only,) = mistakes(fleet({word: {}}))
    assert only.startswith(f"{PATH}.{word}: unknown key; ")
    assert "did you mean" not in only


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ([], "fleet: [] is not a mapping; write {key: value}"),
        (fleet(timeout=9), "fleet.timeout: unknown key; write it as fleet.servers.NAME.timeout"),
        (fleet(keep=9), "fleet.keep: unknown key; write it as fleet.registry.keep"),
        (fleet(regin="x"), "fleet.regin: unknown key; did you mean region?"),
        (fleet(region="europe-west1-b"), "fleet.region: 'europe-west1-b' is not a Cloud Run region; write one from"),
        (
            fleet(region="europe-west13"),
            "fleet.region: europe-west13 is not a region of Cloud Run (of those of 2026-11); did you mean europe-west",
        ),
        (fleet(region="Europe"), "fleet.region: 'Europe' is not a Cloud Run region; write one from"),
        (fleet(profile="test"), "fleet.profile: \"test\" is not known; write one of 'dev' or 'prod'"),
        (fleet(labels={"Team": "x"}), "fleet.labels.Team: 'Team' cannot be a label's key; use at most 63"),
        (fleet(labels={"team": "X"}), "fleet.labels.team: 'X' cannot be a label's value; use at most 63"),
        (fleet(labels={"cost-center": 4711}), "fleet.labels.cost-center: 4711 is not text; put the text in quotes"),
        (fleet(servers={}), "fleet.servers: is empty; add at least one entry"),
        (
            {"region": "europe-west1"},
            "fleet.servers: missing; add servers: {reference: {source: {build: ./my_server}}}",
        ),
        ({"servers": {"echo": SOURCE}}, "fleet.region: missing; add region: europe-west1"),
        (fleet(servers={"echo": {}}), "fleet.servers.echo.source: missing; add source: {build: ./my_server}"),
        (
            fleet(servers={"echo": []}),
            "fleet.servers.echo: [] is not a mapping; write echo: {source: {build: ./my_server}}",
        ),
        (fleet(servers={"x": SOURCE}), "fleet.servers.x: a name has 2 to 26 characters"),
        (fleet(servers={"a" * 27: SOURCE}), f"fleet.servers.{'a' * 27}: a name has 2 to 26 characters"),
        (fleet(servers={"a\nb": SOURCE}), 'fleet.servers["a\\nb"]: a name has 2 to 26 characters'),
    ],
)
def test_a_mistake_in_the_fleet_is_one_line_under_its_path(raw, line):
    (only,) = mistakes(raw)
    assert only.startswith(line)


def test_a_name_that_cloud_run_refuses_comes_with_one_that_it_takes():
    (only,) = mistakes(fleet(servers={"My Server_2": SOURCE}))
    assert only.endswith("write my-server-2")
    assert parse_fleet(fleet(servers={"my-server-2": SOURCE}))


def test_what_is_between_servers_is_reported_though_others_have_mistakes_of_their_own():
    """Three rounds: the wrong key, the domain between two that are right, the client that calls one of all these."""
    servers = {
        "first": {**SOURCE, "domain": "mcp.acme.dev"},
        "second": {**SOURCE, "domain": "mcp.acme.dev"},
        "third": {**SOURCE, "max_instnces": 1},
    }
    clients = {"assistant": {**SOURCE, "calls": ["first", "second", "third", "fourth"]}}
    assert mistakes(fleet(servers=servers, clients=clients)) == [
        "fleet.servers.third.max_instnces: unknown key; did you mean max_instances?",
        "fleet.servers.second.domain: mcp.acme.dev leads to first already; write another",
        "fleet.clients.assistant.calls[3]: 'fourth' is not a server; available: first, second, third",
    ]


def test_every_mistake_is_reported_at_once_in_the_order_of_the_vocabulary():
    raw = {
        "regin": "europe-west1",
        "servers": {
            "Echo": {"source": {"svn": {}}},
            "tool": {**SOURCE, "timeout": 0, "cpu": "0.5", "min_instances": 9, "env": {"PORT": "1"}, "pth": "/x"},
        },
    }
    assert [line.partition(":")[0] for line in mistakes(raw)] == [
        "fleet.region",
        "fleet.servers.Echo",
        "fleet.servers.Echo.source",
        "fleet.servers.tool.timeout",
        "fleet.servers.tool.concurrency",
        "fleet.servers.tool.env.PORT",
        "fleet.servers.tool.max_instances",
        "fleet.servers.tool.pth",
        "fleet.regin",
    ]


def test_a_folder_to_build_must_be_there_with_its_dockerfile(tmp_path):
    raw = fleet({"source": {"build": "./echo"}})
    (tmp_path / "echo").mkdir()
    (only,) = mistakes(raw, root=tmp_path)
    assert only.startswith("fleet.servers.echo.source.build: there is no echo/Dockerfile beside Pulumi.yaml; correct")
    (tmp_path / "echo/Dockerfile").touch()
    assert parse_fleet(raw, root=tmp_path)


def test_a_huge_value_does_not_make_a_huge_line():
    (only,) = mistakes(fleet({"timeout": "x" * 10_000}))
    assert len(only) < 200


def test_every_key_says_what_it_means():
    schema = json.dumps(parse_fleet(fleet()).model_json_schema())
    for model in json.loads(schema)["$defs"].values():
        for name, key in model["properties"].items():
            assert key.get("description"), f"{name} has no description"


def test_the_regions_are_those_of_the_local_cloud():
    assert sorted(values.REGIONS) == sorted(locations.REGIONS)


NEWER = {"labels": {}, "servers": {"echo": {"source": {"image": "docker.io/acme/echo:1"}, "domain": "mcp.acme.dev"}}}


def test_a_region_newer_than_the_list_is_taken_where_the_fleet_says_that_it_is_new():
    message = (
        "europe-north3 is not a region of Cloud Run (of those of 2026-11); did you mean europe-north2? For one that is"
        " newer, add new_regions: [europe-north3] to the fleet"
    )
    with pytest.raises(FleetError) as refused:
        parse_fleet(NEWER | {"region": "europe-north3"})
    assert str(refused.value) == f"fleet.region: {message}"
    fleet = parse_fleet(NEWER | {"region": "europe-north3", "new_regions": ["europe-north3"]})
    assert fleet.all_regions == ("europe-north3",)
    regions = ["europe-west1", "europe-north3"]
    assert parse_fleet(NEWER | {"regions": regions, "new_regions": regions}).all_regions == (*regions,)


@pytest.mark.parametrize(
    ("new", "line"),
    [
        ("europe-north3", "fleet.new_regions: "),
        (["europe-north3-a"], "fleet.new_regions[0]: 'europe-north3-a' is not a Cloud Run region"),
        (["europe-north4"], "fleet.region: europe-north3 is not a region"),
        ([["europe-north3"]], "fleet.region: europe-north3 is not a region"),
    ],
)
def test_a_new_region_has_the_form_of_one_and_is_that_one(new, line):
    with pytest.raises(FleetError) as refused:
        parse_fleet(NEWER | {"region": "europe-north3", "new_regions": new})
    assert line in str(refused.value)
