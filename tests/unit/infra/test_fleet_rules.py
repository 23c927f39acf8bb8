"""The vocabulary's further mistakes, between keys, containers and servers; each one line under its path."""

import itertools

import pytest

from pulumi_mcpfleet.fleet import FleetError, parse_fleet

DIGEST = "@sha256:" + "0a" * 32
SOURCE = {"source": {"image": "docker.io/acme/toolbox:1"}}
PROD = {"source": {"image": f"docker.io/acme/toolbox{DIGEST}"}}
SECRET = {"secret": "db", "version": "3"}
CLIENT = {"client_id": "1-a.apps.googleusercontent.com", "secret": "iap", "version": "1"}
REASON = {"public": {"reason": "documentation without private data"}}


def mistakes(server=None, *, servers=None, **fleet):
    raw = {"region": "europe-west1", "servers": servers or {"echo": {**SOURCE, **(server or {})}}, **fleet}
    try:
        parse_fleet(raw)
    except FleetError as error:
        return str(error).splitlines()
    return []


def one(server=None, **fleet):
    (line,) = mistakes(server, **fleet)
    return line


VPC = {"vpc": {"network": "default"}}
EXPORT = {"server": "10.0.0.2", "path": "/share"}
ITEMS = {"a": {"version": "1"}}
SQL = ["acme-dev:europe-west1:tools"]
KEY = "projects/acme-dev/locations/europe-west1/keyRings/mcp/cryptoKeys/run"
TOKEN = {"secret": "token", "version": "1"}
MEMORY = {"memory": "64Mi", "mount": "/y"}
LARGE_GPU = {"gpu": "nvidia-rtx-pro-6000", "cpu_throttling": False}
WITH_GPU = {"gpu": "nvidia-l4", "cpu_throttling": False}


def secret_volume(**keys):
    return {"volumes": {"v": {"secret": "db", "mount": "/v", **keys}}}


def probe(kind, **keys):
    return {"probes": {kind: {"path": "/ready", **keys}}}


SIDECAR = {"redis": {"image": "docker.io/library/redis:7"}}

REFUSED = [
    # sessions and transports
    ({"sessions": "stateful"}, "max_instances: 3 instances do not know each other's sessions, and MCP clients do not"),
    ({"sessions": "sticky"}, "sessions: \"sticky\" is not known; write one of 'stateless' or 'stateful'"),
    ({"transports": ["sse"]}, "max_instances: 3 instances cannot serve sse: a message would reach an instance"),
    ({"transports": []}, "transports: is empty; add at least one entry"),
    ({"transports": ["http"]}, "transports[0]: \"http\" is not known; write one of 'streamable-http' or 'sse'"),
    ({"transports": ["sse", "sse"], "max_instances": 1}, "transports: 'sse' is in the list twice; keep one"),
    # secrets
    ({"env": {"DB_PASSWORD": "hunter22"}}, "env.DB_PASSWORD: looks like a secret, which everyone who sees this file"),
    ({"env": {"HEADER": "ghp_" + "a" * 36}}, "env.HEADER: looks like a secret"),
    ({"env": {"DSN": "postgres://ada:pw@db/x"}}, "env.DSN: looks like a secret"),  # pragma: allowlist secret
    ({"env": {"PEM": "-----BEGIN RSA PRIVATE KEY-----"}}, "env.PEM: looks like a secret"),  # pragma: allowlist secret
    ({"secrets": {"KEY": "hunter2"}}, 'secrets.KEY: "hunter2" is not a mapping; write KEY: {secret: toolbox-db, vers'),
    ({"secrets": {"KEY": {"secret": "db"}}}, 'secrets.KEY.version: missing; add version: "3"'),
    ({"secrets": {"KEY": {**SECRET, "version": "newest"}}}, "secrets.KEY.version: 'newest' is not a version; write"),
    ({"secrets": {"KEY": {**SECRET, "version": 0}}}, "secrets.KEY.version: '0' is not a version; write its number"),
    ({"secrets": {"KEY": {**SECRET, "secret": "a b"}}}, "secrets.KEY.secret: 'a b' is not a secret's name; write NAME"),
    ({"secrets": {"PORT": SECRET}}, "secrets.PORT: PORT is Cloud Run's own; remove it"),
    ({"secrets": {"MCPFLEET_PATH": SECRET}}, "secrets.MCPFLEET_PATH: MCPFLEET_PATH is set by mcpfleet; remove it"),
    ({"secrets": {"/key": SECRET}}, "secrets[\"/key\"]: /key would hide the container's whole root; write a file in"),
    ({"secrets": {"/etc/key": SECRET}}, 'secrets["/etc/key"]: /etc would hide the names of users and hosts; write a'),
    ({"secrets": {"/dev/a/key": SECRET}}, 'secrets["/dev/a/key"]: Cloud Run allows no mounts at /dev; write'),
    ({"secrets": {"/a/../b": SECRET}}, "secrets[\"/a/../b\"]: '/a/../b' is not a path in a container; write it as"),
    ({"env": {"KEY": "x"}, "secrets": {"KEY": SECRET}}, "secrets.KEY: is set in env as well; keep one"),
    (
        {"secrets": {"/run/a": SECRET, "/run/b": {**SECRET, "secret": "other"}}},
        'secrets["/run/b"]: is in the folder of db, and a folder holds one secret; write another folder',
    ),
    (
        {"secrets": {"/run/a": SECRET, "/run/keys/b": SECRET}},
        'secrets["/run/keys/b"]: at /run/keys and /run/a at /run would hide each other; write another path',
    ),
    # volumes
    ({"volumes": {"v": {"mount": "/v"}}}, "volumes.v: has no kind; say which kind of volume: memory | disk | gcs"),
    ({"volumes": {"v": {"cloudSql": {}, "mount": "/v"}}}, "volumes.v: unknown kind of volume: 'cloudSql'; write clo"),
    ({"volumes": {"v": {"nfs": EXPORT, "mount": "/v"}}}, "volumes.v: needs vpc to reach its server; add"),
    (
        {**VPC, "execution_environment": "gen1", "volumes": {"v": {"nfs": EXPORT, "mount": "/v"}}},
        "volumes.v: needs execution_environment: gen2, which mounts file systems; gen1 does not",
    ),
    (
        secret_volume(version="1", file="a", items=ITEMS),
        "volumes.v.items: can't be combined with version; keep items for",
    ),
    (secret_volume(file="a"), 'volumes.v.version: missing; add version: "1"'),
    (secret_volume(version="1"), "volumes.v.file: missing; add file: tools.yaml"),
    (secret_volume(items={"../a": {"version": "1"}}), "volumes.v.items[\"../a\"]: '../a' is not a file in the folder"),
    (secret_volume(items=ITEMS, mode=400), 'volumes.v.mode: 400 is a number, which YAML reads as decimal or as octal;'),
    (secret_volume(items=ITEMS, mode="0640"), 'volumes.v.mode: 0640 has a write bit, which Cloud Run removes; write'),
    (secret_volume(items=ITEMS, mode="9"), "volumes.v.mode: '9' is not a mode; write it as \"0440\": 0, then a digit"),
    # Cloud SQL
    ({"cloudsql_instances": ["tools"]}, "cloudsql_instances[0]: 'tools' is not a connection name; write PROJECT:REG"),
    (
        {"cloudsql_instances": SQL, "volumes": {"v": {"memory": "64Mi", "mount": "/cloudsql/v"}}},
        "cloudsql_instances: are seen in /cloudsql, where v is already; write another path for it",
    ),
    (
        {"cloudsql_instances": SQL, "secrets": {"/cloudsql/key": SECRET}},
        "cloudsql_instances: are seen in /cloudsql, where /cloudsql/key is already; write another path for it",
    ),
    (
        {"cloudsql_instances": SQL, "volumes": {"cloudsql": {"memory": "64Mi", "mount": "/v"}}},
        "volumes.cloudsql: is Cloud Run's name for cloudsql_instances; write another",
    ),
    # CPU, GPU
    ({"cpu": "0.5", "concurrency": 1, "cpu_throttling": False}, "cpu_throttling: false needs a whole CPU and cpu is"),
    ({"memory": "256Mi", "cpu_throttling": False}, "cpu_throttling: false needs at least 512Mi and memory is 256Mi"),
    ({"cpu": 4, "memory": "16Gi", "gpu": "nvidia-l4"}, "gpu: nvidia-l4 needs CPU all the time; add cpu_throttling: "),
    ({"cpu": 4, "memory": "8Gi", **WITH_GPU}, "gpu: nvidia-l4 needs at least 16Gi and memory is 8Gi; raise it"),
    ({"cpu": 2, "memory": "8Gi", "gpu": "a100"}, 'gpu: "a100" is not known; write one of \'nvidia-l4\' or'),
    ({"cpu": 8, "memory": "80Gi", **LARGE_GPU}, "gpu: nvidia-rtx-pro-6000 needs at least 20 CPUs and cpu is 8; rais"),
    ({"cpu": 20, "memory": "32Gi", **LARGE_GPU}, "gpu: nvidia-rtx-pro-6000 needs at least 80Gi and memory is 32Gi"),
    ({"cpu": 20, "memory": "32Gi"}, "cpu: 20 CPUs need gpu: nvidia-rtx-pro-6000; write 8 or less"),
    ({"cpu": 8, "memory": "80Gi", **WITH_GPU}, "memory: 80Gi needs gpu: nvidia-rtx-pro-6000; write 32"),
    ({"cpu": 19}, "cpu: '19' is not an amount of CPU that Cloud Run has; write \"1\", \"2\""),
    (
        {"gpu_zonal_redundancy": False},
        "gpu_zonal_redundancy: false applies only to a GPU, and there is none; add gpu: nvid",
    ),
    # protocols, keys, policies, notes
    ({"use_http2": True, "health_path": "/ok"}, "use_http2: can't be combined with health_path (/ok): Cloud"),
    ({"encryption_key": "k"}, "encryption_key: 'k' is not a key of Cloud KMS in a region; write projects/P/location"),
    ({"encryption_key": KEY.replace("europe", "us")}, "encryption_key: is in us-west1 and the service in europe-wes"),
    ({"binary_authorization": True}, "binary_authorization: true is not text; put the text in quotes"),
    ({"binary_authorization": "strict"}, "binary_authorization: 'strict' is not a policy; write default, the projec"),
    ({"labels": {"Team": "x"}}, "labels.Team: 'Team' cannot be a label's key; use at most 63"),
    ({"annotations": {"run.googleapis.com/x": "y"}}, 'annotations["run.googleapis.com/x"]: run.googleapis.com/x is '),
    ({"annotations": {"mcpfleet/access": "y"}}, 'annotations["mcpfleet/access"]: mcpfleet/ is the fleet\'s own; write'),
    ({"annotations": {"a b": "y"}}, "annotations[\"a b\"]: 'a b' cannot be an annotation's key; write acme.dev/owner"),
    # network
    ({"vpc": {"connector": "mcp", "network": "n"}}, "vpc.connector: can't be combined with network: a connector has a"),
    ({"vpc": {"connector": "mcp", "tags": ["t"]}}, "vpc.connector: can't be combined with tags: a connector has a"),
    ({"vpc": {"connector": "C"}}, "vpc.connector: 'C' is not a connector; write its NAME, or projects/P/locations/REG"),
    ({"volumes": {"v": {"memory": "64Mi"}}}, "volumes.v.mount: missing; add mount: /cache"),
    ({"volumes": {"v": {"memory": "1k", "mount": "/v"}}}, "volumes.v.memory: 1k is out of range; write a size from"),
    (
        {"volumes": {"v": {"memory": "64Mi", "mount": "/proc/x"}}},
        "volumes.v.mount: Cloud Run allows no mounts at /proc",
    ),
    ({"volumes": {"v": {"gcs": {"bucket": "gs://b"}, "mount": "/v"}}}, "volumes.v.gcs.bucket: 'gs://b' is not a buck"),
    ({"volumes": {"V": {"memory": "64Mi", "mount": "/v"}}}, "volumes.V: 'V' is not a volume's name; use at most 63"),
    ({"volumes": {"fleet-v": {"memory": "64Mi", "mount": "/v"}}}, "volumes.fleet-v: 'fleet-v' is not a volume's name"),
    (
        {"volumes": {"a": {"memory": "64Mi", "mount": "/v"}, "b": {"memory": "64Mi", "mount": "/v"}}},
        "volumes.b: is mounted at /v, where a is already; write another path",
    ),
    (
        {"secrets": {"/v/key": SECRET}, "volumes": {"a": {"memory": "64Mi", "mount": "/v"}}},
        "volumes.a: is mounted at /v, where the secret /v/key is already; write another path",
    ),
    (
        {"execution_environment": "gen1", "volumes": {"a": {"gcs": {"bucket": "b-1"}, "mount": "/v"}}},
        "volumes.a: needs execution_environment: gen2, which mounts file systems; gen1 does not",
    ),
    ({"execution_environment": "gen2", "memory": "256Mi"}, "execution_environment: gen2 needs at least 512Mi and mem"),
    # sidecars
    ({"sidecars": {"server": {"image": "a/b"}}}, "sidecars.server: is the name of the server's own container; write"),
    ({"sidecars": {"Redis": {"image": "a/b"}}}, "sidecars.Redis: 'Redis' is not a container's name; use at most 63"),
    ({"sidecars": {"redis": {}}}, "sidecars.redis.image: missing; add image:"),
    ({"sidecars": {"redis": {"image": "a/b", "port": 1}}}, "sidecars.redis.port: unknown key; write it as fleet"),
    (
        {"sidecars": {"redis": {"image": "a/b", "env": {"TOKEN": "hunter22"}}}},
        "sidecars.redis.env.TOKEN: looks like a secret",
    ),
    (
        {"sidecars": {"redis": {"image": "a/b", "startup": {"period": 1}}}},
        "sidecars.redis.startup: has no port, and a sidecar has no default; add port: NUMBER",
    ),
    (
        {"sidecars": {"redis": {"image": "a/b", "startup": {"port": 8080}}}},
        "sidecars.redis.startup.port: 8080 is the server's, and the containers of an instance share one localhost",
    ),
    (
        {"sidecars": {"redis": {"image": "a/b", "mounts": {"cache": "/c"}}}},
        "sidecars.redis.mounts.cache: is not a volume of the server; add it to volumes",
    ),
    (
        {"sidecars": {"redis": {"image": "a/b", "depends_on": ["db"]}}},
        "sidecars.redis.depends_on[0]: 'db' is not a sidecar; available: redis",
    ),
    (
        {"sidecars": {"redis": {"image": "a/b", "depends_on": ["redis"]}}},
        "sidecars.redis.depends_on: depends on itself (redis -> redis); remove one of these",
    ),
    ({"depends_on": ["redis"]}, "depends_on[0]: 'redis' is not a sidecar; add it to sidecars"),
    ({"sidecars": SIDECAR, "depends_on": ["rdis"]}, "depends_on[0]: 'rdis' is not a sidecar; available: redis"),
    (
        {"cpu": 8, "memory": "8Gi", "sidecars": SIDECAR},
        "sidecars: have 9 CPUs with the server; an instance has at most 8: lower some cpu",
    ),
    (
        {"sidecars": {f"s{n}": {"image": "a/b", "cpu": "0.1", "memory": "128Mi"} for n in range(10)}},
        "sidecars: has more than 9 entries; remove some",
    ),
    # probes
    ({"probes": {"startup": {"period": 61, "failures": 4}}}, "probes.startup: would wait 244 s (period x failures); C"),
    (
        {"probes": {"startup": {"period": 241}}},
        "probes.startup.period: 241 is too large; for a startup probe write 240",
    ),
    (
        {"sidecars": {"redis": {"image": "a/b", "startup": {"port": 1, "period": 90}}}},
        "sidecars.redis.startup: would wait 270 s (period x failures); Cloud Run waits at most 240 s",
    ),
    ({"probes": {"liveness": {}}}, "probes.liveness.path: missing, and health_path too; add path: /ready"),
    (probe("liveness", timeout=10), "probes.liveness.timeout: 10 is also the period, and Cloud Run requires a smaller"),
    (
        probe("readiness", timeout=10),
        "probes.readiness.timeout: 10 is also the period, and Cloud Run requires a smaller",
    ),
    (probe("readiness", initial_delay=1), "probes.readiness.initial_delay: is not for a readiness probe, which begins"),
    (probe("readiness", period=301), "probes.readiness.period: 301 is too large; for a readiness probe write 300 or"),
    (
        {"use_http2": True, **probe("startup")},
        "probes.startup.path: is a probe by HTTP/1, and with use_http2 the container",
    ),
    (
        {"probes": {"startup": {"path": "/a", "grpc": {}}}},
        "probes.startup.grpc: can't be combined with path (/a): a probe",
    ),
    ({"probes": {"startup": {"grpc": {"service": "a b"}}}}, "probes.startup.grpc.service: 'a b' is not the name of a"),
    ({"probes": {"startup": {"grpc": True}}}, "probes.startup.grpc: true is not a mapping; write grpc: {service: acme"),
    ({"probes": {"liveness": {}}}, "probes.liveness.path: missing, and health_path too; add path: /ready, or grpc: {}"),
    (
        {"volumes": {"v": {"disk": "10Gi", "mount": "/v"}}, "memory": "256Mi"},
        "memory: 256Mi is too little for the volume v, which gen2 mounts; write 512Mi or more",
    ),
    ({"volumes": {"v": {"disk": "5Gi", "mount": "/v"}}}, "volumes.v.disk: 5Gi is too small; Cloud Run's least disk"),
    (
        {"volumes": {"v": {"disk": "10Gi", "mount": "/v"}}, "execution_environment": "gen1"},
        "volumes.v: needs execution_environment: gen2, which mounts file systems; gen1 does not",
    ),
    ({"probes": {"liveness": {"timeout": 11}}}, "probes.liveness.timeout: 11 is above the period (10), which Cloud R"),
    ({"probes": {"liveness": {"path": "/healthz"}}}, "probes.liveness.path: /healthz ends in z, and Google's front e"),
    # identity
    ({"roles": ["roles/editor"]}, "roles[0]: roles/editor would give a server that takes requests from clients the"),
    ({"roles": ["bigquery.user"]}, "roles[0]: 'bigquery.user' is not a role; write it as roles/bigquery.user"),
    ({"service_account": "toolbox"}, "service_account: 'toolbox' is not a service account; write its address"),
    (
        {"service_account": "4711-compute@developer.gserviceaccount.com"},
        "service_account: 4711-compute@developer.gserviceaccount.com is the project's default account",
    ),
    ({"service_name": "Tools"}, "service_name: 'Tools' is not a service's name; use 2 to 49 of a-z, 0-9 and -, a"),
    # network
    ({"ingress": "private"}, "ingress: \"private\" is not known; write one of 'all', 'internal' or 'internal-and-lb'"),
    (
        {"ingress": "internal", "access": {"iam": {"invokers": ["user:a@b.dev"]}}},
        "ingress: internal keeps user:a@b.dev's desktop out, whose requests come from the internet; name service",
    ),
    ({"vpc": {}}, "vpc.subnetwork: missing, and network too; write one of them, such as network: default"),
    ({"vpc": {"network": "My Net"}}, "vpc.network: 'My Net' is not a network; write its NAME"),
    ({"vpc": {"network": "n", "tags": ["A"]}}, "vpc.tags[0]: 'A' is not a network tag; use at most 63 of a-z"),
    ({"ingress": "internal", "domain": "mcp.acme.dev"}, "domain: mcp.acme.dev needs a load balancer, whose requests"),
    ({"domain": "https://mcp.acme.dev"}, "domain: 'https://mcp.acme.dev' is not a domain; write it as mcp.acme.dev"),
    ({"domain": "x.run.app"}, "domain: x.run.app is Google's; write a domain whose DNS you control"),
    ({"domain": "a" * 60 + ".dev"}, f"domain: {'a' * 60}.dev has 64 characters; a managed certificate takes at most "),
    ({"default_url": False}, "default_url: false leaves the server without a URL; add domain: mcp.acme.dev"),
    # access
    ({"access": {"public": {}}}, "access.public.reason: missing; add reason: documentation search without private"),
    ({"access": {"public": {"reason": "because"}}}, "access.public.reason: must explain, in one line of 10 to 256"),
    ({"access": {"public": {"reason": "documentation \u26a0\ufe0f"}}}, "access.public.reason: must explain,"),
    ({"access": {"public": {"reason": "documentation\x1b[2J search"}}}, "access.public.reason: must explain,"),
    ({"access": {"oauth": {}}}, "access.oauth.issuer: missing; add issuer:"),
    ({"access": {"oauth": {"issuer": "http://x.dev"}}}, "access.oauth.issuer: 'http://x.dev' is not an issuer; write"),
    ({"access": {"oauth": {"issuer": "https://x.dev", "scopes": ["a b"]}}}, "access.oauth.scopes[0]: 'a b' is not a "),
    (
        {"access": {"iap": {}}},
        "access.iap: accepts only members of the project's organization with Google's OAuth client,",
    ),
    (
        {"access": {"iap": {"oauth_client": {**CLIENT, "client_id": "1-a"}}}},
        "access.iap.oauth_client.client_id: '1-a' is not an OAuth client; write its id, which ends in",
    ),
    ({"access": {"iap": {"members": ["allUsers"]}}}, "access.iap.members[0]: allUsers would let anybody call the ser"),
    ({"access": {**REASON, "iam": {}}}, "access: has iam and public together; keep only one"),
    ({"agent_registry": "on"}, "agent_registry: \"on\" is not known; write one of 'functional-type' or 'entry'"),
    ({"source": {"image": "ghcr.io/a/b:1"}}, "source.image: Cloud Run does not pull from ghcr.io; write registry:"),
    ({"sidecars": {"x": {"image": "quay.io/a/b"}}}, "sidecars.x.image: Cloud Run does not pull from quay.io; write"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "line"), REFUSED, ids=[line[:60] for _, line in REFUSED])
def test_a_mistake_is_one_line_under_its_path(keys, line):
    assert one(keys).startswith(f"fleet.servers.echo.{line}")


FLEET_REFUSED = [
    ({"regions": ["europe-west1"]}, "fleet.regions: can't be combined with region (europe-west1); keep one"),
    ({"registry": {"keep": 0}}, "fleet.registry.keep: 0 is too small; write 1 or more"),
    (
        {"registry": {"remote": "https://ghcr.io"}},
        "fleet.registry.remote: 'https://ghcr.io' is not a registry; write its",
    ),
    ({"registry": {"remote": ["ghcr.io", "x"]}}, "fleet.registry.remote[1]: 'x' is not a registry; write its host"),
    ({"registry": {"remote": ["ghcr.io", "ghcr.io"]}}, "fleet.registry.remote: 'ghcr.io' is in the list twice"),
    ({"registry": {"repository": "My"}}, "fleet.registry.repository: 'My' is not a repository's name; use at most 63"),
    ({"organization": "acme"}, "fleet.organization: 'acme' is not an organization's number; find it by"),
    ({"labels": {"goog-x": "y"}}, "fleet.labels.goog-x: 'goog-x' cannot be a label's key; use at most 63"),
]


@pytest.mark.parametrize(("keys", "line"), FLEET_REFUSED, ids=[line[:40] for _, line in FLEET_REFUSED])
def test_a_mistake_of_the_whole_fleet_is_one_line_under_its_path(keys, line):
    assert one(**keys).startswith(line)


def test_two_regions_need_one_name_and_no_state():
    lines = mistakes(
        {"sessions": "stateful", "transports": ["sse"], "max_instances": 1},
        region=None,
        regions=["europe-west1", "us-central1"],
    )
    assert [line.partition(": ")[0].rpartition(".")[2] for line in lines] == ["domain", "sessions", "transports"]
    assert mistakes({"domain": "mcp.acme.dev"}, region=None, regions=["europe-west1", "us-central1"]) == []


def test_a_domain_leads_to_one_server():
    both = {name: {**SOURCE, "domain": "mcp.acme.dev"} for name in ("one", "two")}
    assert one(servers=both) == "fleet.servers.two.domain: mcp.acme.dev leads to one already; write another"


def test_two_services_of_a_fleet_have_different_names():
    named = {"service_name": "tools"}
    assert mistakes(servers={"one": {**SOURCE, **named}, "two": SOURCE}) == []
    assert one(servers={"one": {**SOURCE, **named}, "two": {**SOURCE, **named}}) == (
        "fleet.servers.two.service_name: tools is the service of one already; write another"
    )
    assert one(servers={"one": {**SOURCE, "service_name": "mcp-two"}, "two": SOURCE}) == (
        "fleet.servers.one.service_name: mcp-two is the service of two already; write another"
    )
    assert one(clients={"agent": {**SOURCE, "calls": ["echo"], "service_name": "mcp-echo"}}) == (
        "fleet.clients.agent.service_name: mcp-echo is the service of echo already; write another"
    )


def test_in_prod_an_image_is_named_by_its_digest():
    assert one(profile="prod").startswith(
        "fleet.servers.echo.source.image: docker.io/acme/toolbox:1 names a tag, which can move under a running service"
    )
    assert one({**PROD, "sidecars": SIDECAR}, profile="prod").startswith("fleet.servers.echo.sidecars.redis.image: ")
    assert mistakes(PROD, profile="prod") == []
    assert mistakes(profile="dev") == []


def test_servers_with_images_of_two_registries_are_advised_the_same():
    servers = {
        "one": {"source": {"image": "ghcr.io/a/b"}},
        "two": {**SOURCE, "sidecars": {"x": {"image": "quay.io/a/b"}}},
    }
    clients = {"agent": {"source": {"image": "lscr.io/a/b"}, "calls": ["one"]}}
    lines = mistakes(servers=servers, clients=clients)
    assert [line.partition(": ")[0] for line in lines] == [
        "fleet.servers.one.source.image",
        "fleet.servers.two.sidecars.x.image",
        "fleet.clients.agent.source.image",
    ]
    assert all("write registry: {remote: [ghcr.io, quay.io, lscr.io]} in the fleet" in line for line in lines)
    assert mistakes(servers=servers, clients=clients, registry={"remote": ["ghcr.io", "quay.io", "lscr.io"]}) == []


def test_a_server_beside_a_client_takes_a_port_that_no_image_has():
    servers = {"built": {"source": {"stdio": {"npm": "a@1"}}}, "fixed": {"source": {"image": "a/b", "port": 8081}}}
    clients = {"agent": {**SOURCE, "calls": ["built", "fixed"], "topology": "sidecar"}}
    assert mistakes(servers=servers, clients=clients) == []


HIDDEN = [
    ({"env": {"PORT": "1", "API_TOKEN": "s3cr3t-value"}}, ["env.PORT", "env.API_TOKEN"]),  # pragma: allowlist secret
    ({"env": {"1": "x", "A": "b"}, "secrets": {"A": TOKEN}}, ["env.1", "secrets.A"]),
    ({"secrets": {"1": TOKEN, "/run/a/b": TOKEN, "/run/a": TOKEN}}, ["secrets.1", "secrets[\"/run/a\"]"]),
    (
        {"volumes": {"x": {"memory": "1", "mount": "/x"}, "y": MEMORY, "z": MEMORY}},
        ["volumes.x.memory", "volumes.z"],
    ),
    ({"depends_on": ["A", "no"]}, ["depends_on[0]", "depends_on[1]"]),
    (
        {"sidecars": {"a": {"image": "A"}, "server": {"image": "a/b"}}, "depends_on": ["a", "b"]},
        ["sidecars.a.image", "sidecars.server", "depends_on[1]"],
    ),
    (
        {"source": {"image": "a/b", "args": ["x", 1, "--api-key=s3cr3t-value"]}},  # pragma: allowlist secret
        ["source.args[1]", "source.args[2]"],
    ),
    (
        {"roles": ["x", "roles/a.b", "roles/A.B"], "timeout": 0},
        ["timeout", "roles[0]", "roles"],
    ),
    ({"cpu": 3, "env": {"PORT": "1", "A_TOKEN": "s3cr3t-value"}}, ["cpu", "env.PORT", "env.A_TOKEN"]),
    (
        {"volumes": {"v": {"memory": "1", "mount": "/v"}}, "sidecars": {"a": {"image": "A", "mounts": {"v": "/x"}}}},
        ["volumes.v.memory", "sidecars.a.image"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "paths"), HIDDEN, ids=[" ".join(paths) for _, paths in HIDDEN])
def test_a_mistake_that_another_hides_from_the_parser_is_reported_with_it(keys, paths):
    reported = {line.partition(": ")[0] for line in mistakes(keys)}
    assert reported == {f"fleet.servers.echo.{path}" for path in paths}


PAIRS = [
    (one, other)
    for index, (one, other) in enumerate(itertools.combinations(REFUSED, 2))
    if not one[0].keys() & other[0].keys()
    if index % 41 == 0  # of eight thousand; each second one that is wrong would be a kind of its own
]
DEPENDING = (
    "depends_on",
    "sidecars.redis.mounts",
    "gpu_zonal",
    "volumes.v: needs vpc",
    "default_url",
    "probes.liveness",
)
"""Rules between keys of which the other mistake may be one: what holds then nobody can tell."""


def test_two_mistakes_of_one_server_are_both_reported():
    for (keys, line), (others, other) in PAIRS:
        lines = mistakes({**keys, **others})
        for expected in (line, other):
            is_reported = any(reported.startswith(f"fleet.servers.echo.{expected}") for reported in lines)
            assert is_reported or expected.startswith(DEPENDING), (keys, others)


def test_a_registry_that_cloud_run_does_not_pull_from_is_reached_through_a_remote_repository():
    ghcr = {"source": {"image": "ghcr.io/acme/tool:1"}}
    assert mistakes(ghcr, registry={"remote": "ghcr.io"}) == []
    assert mistakes(ghcr, registry={"remote": ["quay.io", "ghcr.io"]}) == []
    assert one(ghcr, registry={"remote": "quay.io"}).endswith(
        "write registry: {remote: [quay.io, ghcr.io]} in the fleet, and the image comes through Artifact Registry"
    )


@pytest.mark.parametrize(
    "image", ["redis", "acme/redis", "docker.io/a/b", "gcr.io/a/b", "eu.gcr.io/a/b", "x-docker.pkg.dev/a/b", "h:5000/a"]
)
def test_registries_that_cloud_run_pulls_from_need_nothing(image):
    assert mistakes({"source": {"image": image}}) == []


def test_iap_needs_an_organization_or_an_oauth_client_of_ones_own():
    iap = {"access": {"iap": {"members": ["group:a@b.dev"]}}}
    assert one(iap).startswith("fleet.servers.echo.access.iap: ")
    assert mistakes(iap, organization=481516234200) == []
    assert mistakes({"access": {"iap": {"oauth_client": CLIENT}}}) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_TOKENS", "100"),
        ("TOKEN", "12345"),
        ("TOKEN_URL", "https://x.dev/token"),
        ("API_TOKEN", "/run/secrets/token"),
        ("DB_SECRET", "projects/p/secrets/db"),
        ("PASSWORD", ""),
        ("USE_TOKEN", "true"),
        ("REPO", "https://github.com/acme/x.git"),
        ("PROMPT", "ask for the password"),
    ],
)
def test_a_variable_that_only_sounds_secret_is_none(name, value):
    assert mistakes({"env": {name: value}}) == []


def test_every_mistake_of_the_containers_is_reported_at_once():
    lines = mistakes(
        {
            "env": {"A_TOKEN": "hunter22", "B_TOKEN": "hunter33"},
            "secrets": {"/etc/x": SECRET, "K_X": SECRET},
            "sidecars": {
                "one": {"image": "a/b", "depends_on": ["two"], "mounts": {"v": "/v"}},
                "two": {"image": "a/b", "depends_on": ["one", "three"]},
            },
        }
    )
    assert [line.partition(": ")[0].removeprefix("fleet.servers.echo.") for line in lines] == [
        "env.A_TOKEN",
        "env.B_TOKEN",
        'secrets["/etc/x"]',
        "secrets.K_X",
        "sidecars.one.mounts.v",
        "sidecars.two.depends_on[1]",
        "sidecars.one.depends_on",
    ]


def test_a_secret_never_appears_in_the_report_of_its_mistake():
    assert "hunter22" not in one({"env": {"DB_PASSWORD": "hunter22"}})


def test_profiles_differ_in_the_defaults_that_the_guide_lists():
    servers = {
        profile: parse_fleet({"region": "europe-west1", "profile": profile, "servers": {"echo": PROD}})
        for profile in ("dev", "prod")
    }
    by_profile = {profile: fleet.servers["echo"] for profile, fleet in servers.items()}
    different = {
        key
        for key in type(by_profile["dev"]).model_fields
        if getattr(by_profile["dev"], key) != getattr(by_profile["prod"], key)
    }
    assert different == {"deletion_protection", "min_instances"}
    assert (by_profile["prod"].deletion_protection, by_profile["prod"].min_instances) == (True, 1)


def test_one_region_is_the_whole_list():
    assert parse_fleet({"region": "europe-west1", "servers": {"echo": SOURCE}}).all_regions == ("europe-west1",)
    several = {"regions": ["us-central1", "europe-west1"], "servers": {"echo": {**SOURCE, "domain": "a.acme.dev"}}}
    assert parse_fleet(several).all_regions == ("us-central1", "europe-west1")
