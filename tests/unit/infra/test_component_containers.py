"""What a revision is: containers, secrets, volumes, sidecars, probes, network; one server's keys, under mocks."""

import pytest

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.components.foundation import Foundation, FoundationInFleet
from pulumi_mcpfleet.components.mcp_server import McpServer, ServerInFleet
from pulumi_mcpfleet.fleet import parse_fleet

BUCKET_GRANT = "gcp:storage/bucketIAMMember:BucketIAMMember"
ROLE_GRANT = "gcp:projects/iAMMember:IAMMember"
SECRET_GRANT = "gcp:secretmanager/secretIamMember:SecretIamMember"
ACCOUNT = "gcp:serviceaccount/account:Account"
SERVICE = "gcp:cloudrunv2/service:Service"

EXISTING = {"image": "docker.io/acme/toolbox:1", "port": 5000}
POLICY = "projects/acme-dev/platforms/cloudRun/own"
IDENTITY = "serviceAccount:mcp-echo@p.iam.gserviceaccount.com"


@pytest.fixture(name="build")
def _build(deploy):
    def build(source=EXISTING, **keys):
        fleet = parse_fleet({"region": "europe-west1", "servers": {"echo": {"source": source, **keys}}})

        def program():
            foundation = Foundation.in_fleet("fleet", FoundationInFleet(project="p", region="europe-west1"))
            args = ServerInFleet(
                project="p", regions=fleet.all_regions, foundation=foundation, spec=fleet.servers["echo"]
            )
            McpServer.in_fleet("echo", args)

        return deploy(program)

    return build


def template(plan):
    return plan.service().inputs["template"]


# --- address and environment ------------------------------------------------------------------------


def test_the_base_url_and_the_audiences_reach_the_container_before_the_service_exists(build):
    environment = build(audiences=["https://mcp.acme.dev"]).environment()
    assert environment["MCPFLEET_BASE_URL"] == "https://mcp-echo-4711.europe-west1.run.app"
    assert environment["MCPFLEET_AUDIENCE"] == "https://mcp-echo-4711.europe-west1.run.app,https://mcp.acme.dev"


def test_sessions_and_transports_reach_the_container(build):
    environment = build(sessions="stateful", transports=["streamable-http", "sse"], max_instances=1).environment()
    assert environment["MCPFLEET_STATELESS"] == "false"
    assert environment["MCPFLEET_TRANSPORTS"] == "streamable-http,sse"
    assert build().environment()["MCPFLEET_STATELESS"] == "true"


# --- secrets ----------------------------------------------------------------------------------------


def test_a_secret_is_a_reference_to_its_version_and_never_a_value(build):
    container = build(secrets={"DB_PASSWORD": {"secret": "toolbox-db", "version": 3}}).container()
    (entry,) = (variable for variable in container["envs"] if variable["name"] == "DB_PASSWORD")
    assert entry == {
        "name": "DB_PASSWORD",
        "valueSource": {"secretKeyRef": {"secret": "toolbox-db", "version": "3"}},
    }


def test_the_identity_may_read_just_the_servers_secrets_before_the_service_is_made(build):
    plan = build(
        secrets={"A": {"secret": "one", "version": "1"}, "B": {"secret": "one", "version": "2"}},
        sidecars={"x": {"image": "a/b", "secrets": {"C": {"secret": "projects/vault/secrets/two", "version": "1"}}}},
        volumes={"v": {"secret": "three", "version": "1", "file": "f", "mount": "/v"}},
    )
    grants = plan.of(SECRET_GRANT)
    assert [(grant.inputs["project"], grant.inputs["secretId"]) for grant in grants] == [
        ("p", "one"),
        ("p", "three"),
        ("vault", "two"),
    ]
    for grant in grants:
        assert (grant.inputs["role"], grant.inputs["member"]) == ("roles/secretmanager.secretAccessor", IDENTITY)
        assert (SECRET_GRANT, grant.name) in plan.service().dependencies, "Cloud Run checks it when the service is made"


def test_secret_files_of_one_folder_are_one_volume_with_an_item_each(build):
    secret = {"secret": "keys", "version": "1"}
    plan = build(secrets={"/run/keys/a.json": secret, "/run/keys/b.json": {**secret, "version": "2"}})
    (volume,) = template(plan)["volumes"]
    assert volume["secret"] == {
        "secret": "keys",
        "items": [{"path": "a.json", "version": "1"}, {"path": "b.json", "version": "2"}],
    }
    assert plan.container()["volumeMounts"] == [{"name": volume["name"], "mountPath": "/run/keys"}]
    assert volume["name"] == naming.secret_volume("/run/keys")


# --- volumes ----------------------------------------------------------------------------------------


def test_a_volume_in_memory_is_bounded_and_mounted(build):
    plan = build(volumes={"cache": {"memory": "64Mi", "mount": "/cache"}})
    assert template(plan)["volumes"] == [{"name": "cache", "emptyDir": {"medium": "MEMORY", "sizeLimit": "64Mi"}}]
    assert plan.container()["volumeMounts"] == [{"name": "cache", "mountPath": "/cache"}]


@pytest.mark.parametrize(
    ("read_only", "role"), [(True, "roles/storage.objectViewer"), (False, "roles/storage.objectUser")]
)
def test_a_bucket_is_mounted_with_just_the_role_it_needs(build, read_only, role):
    plan = build(volumes={"data": {"gcs": {"bucket": "b-1", "read_only": read_only}, "mount": "/data"}})
    assert template(plan)["volumes"] == [{"name": "data", "gcs": {"bucket": "b-1", "readOnly": read_only}}]
    grant = plan.one(BUCKET_GRANT)
    assert (grant.inputs["bucket"], grant.inputs["role"], grant.inputs["member"]) == ("b-1", role, IDENTITY)
    assert (BUCKET_GRANT, grant.name) in plan.service().dependencies
    assert template(plan)["executionEnvironment"] == "EXECUTION_ENVIRONMENT_GEN2", "the first generation mounts none"


def test_a_secret_volume_holds_one_file(build):
    plan = build(volumes={"config": {"secret": "c", "version": "latest", "file": "tools.yaml", "mount": "/config"}})
    assert template(plan)["volumes"] == [
        {"name": "config", "secret": {"secret": "c", "items": [{"path": "tools.yaml", "version": "latest"}]}}
    ]


# --- sidecars ---------------------------------------------------------------------------------------


def test_a_server_that_is_alone_has_no_container_name(build):
    assert "name" not in build().container()


def test_a_sidecar_has_no_port_and_the_server_waits_for_it(build):
    plan = build(
        sidecars={
            "redis": {
                "image": "docker.io/library/redis:7",
                "args": ["--save", ""],
                "env": {"LOG": "x"},
                "cpu": "0.5",
                "memory": "256Mi",
                "startup": {"port": 6379, "period": 1, "failures": 30},
                "mounts": {"cache": "/c"},
            }
        },
        volumes={"cache": {"memory": "64Mi", "mount": "/cache"}},
        depends_on=["redis"],
    )
    server, redis = template(plan)["containers"]
    assert (server["name"], server["dependsOns"], server["ports"]) == (
        "server",
        ["redis"],
        {"containerPort": 5000, "name": "http1"},
    )
    assert redis == {
        "name": "redis",
        "image": "docker.io/library/redis:7",
        "args": ["--save", ""],
        "envs": [{"name": "LOG", "value": "x"}],
        "resources": {"limits": {"cpu": "0.5", "memory": "256Mi"}, "cpuIdle": True},
        "startupProbe": {
            "tcpSocket": {"port": 6379},
            "periodSeconds": 1,
            "timeoutSeconds": 1,
            "failureThreshold": 30,
        },
        "volumeMounts": [{"name": "cache", "mountPath": "/c"}],
    }


def test_sidecars_wait_for_each_other_and_run_their_own_program(build):
    plan = build(
        sidecars={
            "database": {"image": "a/b"},
            "cache": {"image": "a/c", "depends_on": ["database"], "command": ["/run"]},
        }
    )
    _, _, cache = template(plan)["containers"]
    assert (cache["dependsOns"], cache["commands"]) == (["database"], ["/run"])


# --- probes -----------------------------------------------------------------------------------------


def test_probes_are_the_users_where_he_says_so(build):
    plan = build(
        health_path="/ready",
        probes={
            "startup": {"period": 2, "failures": 60, "initial_delay": 3},
            "liveness": {"path": "/live", "port": 9000, "period": 60, "timeout": 5},
        },
    )
    assert plan.container()["startupProbe"] == {
        "httpGet": {"path": "/ready", "port": 5000},
        "initialDelaySeconds": 3,
        "periodSeconds": 2,
        "timeoutSeconds": 1,
        "failureThreshold": 60,
    }
    assert plan.container()["livenessProbe"] == {
        "httpGet": {"path": "/live", "port": 9000},
        "periodSeconds": 60,
        "timeoutSeconds": 5,
        "failureThreshold": 3,
    }


def test_a_server_that_is_not_ready_gets_no_requests_which_is_a_preview_of_cloud_runs(build):
    plan = build(health_path="/health", probes={"readiness": {"path": "/ready", "period": 5, "failures": 2}})
    assert plan.container()["readinessProbe"] == {
        "httpGet": {"path": "/ready", "port": 5000},
        "periodSeconds": 5,
        "timeoutSeconds": 1,
        "failureThreshold": 2,
    }
    assert plan.service().inputs["launchStage"] == "BETA"
    assert build().service().inputs["launchStage"] == "GA"


def test_a_server_that_is_not_to_be_restarted_has_no_liveness_probe(build):
    assert "livenessProbe" not in build(health_path="/ready", probes={"restart": False}).container()


# --- identity and network ---------------------------------------------------------------------------


def test_roles_are_granted_on_the_project_before_the_service_is_made(build):
    custom_role = {"role": "projects/p/roles/own", "reason": "reads the one table"}
    plan = build(roles=["roles/bigquery.user", custom_role])
    grants = plan.of(ROLE_GRANT)
    assert [grant.inputs["role"] for grant in grants] == ["roles/bigquery.user", "projects/p/roles/own"]
    assert {(grant.inputs["project"], grant.inputs["member"]) for grant in grants} == {("p", IDENTITY)}
    assert {(ROLE_GRANT, grant.name) for grant in grants} <= plan.service().dependencies


def test_an_account_of_the_users_is_used_and_none_is_made(build):
    plan = build(service_account="own@p.iam.gserviceaccount.com", roles=["roles/a.b"])
    assert plan.of(ACCOUNT) == []
    assert template(plan)["serviceAccount"] == "own@p.iam.gserviceaccount.com"
    assert plan.one(ROLE_GRANT).inputs["member"] == "serviceAccount:own@p.iam.gserviceaccount.com"


@pytest.mark.parametrize(
    ("ingress", "wire"),
    [
        ("all", "INGRESS_TRAFFIC_ALL"),
        ("internal", "INGRESS_TRAFFIC_INTERNAL_ONLY"),
        ("internal-and-lb", "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER"),
    ],
)
def test_ingress_is_the_users(build, ingress, wire):
    assert build(ingress=ingress).service().inputs["ingress"] == wire


def test_direct_vpc_egress_has_one_interface(build):
    vpc = {"network": "n", "subnetwork": "s", "tags": ["mcp"], "all_traffic": True}
    assert template(build(vpc=vpc))["vpcAccess"] == {
        "egress": "ALL_TRAFFIC",
        "networkInterfaces": [{"network": "n", "subnetwork": "s", "tags": ["mcp"]}],
    }
    assert template(build(vpc={"network": "n"}))["vpcAccess"] == {
        "egress": "PRIVATE_RANGES_ONLY",
        "networkInterfaces": [{"network": "n", "subnetwork": "n"}],
    }


@pytest.mark.parametrize("generation", ["gen1", "gen2"])
def test_the_execution_environment_is_the_users_else_cloud_runs(build, generation):
    chosen = template(build(execution_environment=generation))["executionEnvironment"]
    assert chosen == f"EXECUTION_ENVIRONMENT_{generation.upper()}"
    assert "executionEnvironment" not in template(build())


# --- what Google has and a machine has not ------------------------------------------------------------


def test_cpu_that_stays_is_of_the_whole_instance(build):
    plan = build(cpu_throttling=False, sidecars={"redis": {"image": "a/redis"}})
    assert [container["resources"]["cpuIdle"] for container in template(plan)["containers"]] == [False, False]


def test_a_large_gpu_is_a_preview_with_more_cpus_than_any_other(build):
    plan = build(cpu=20, memory="80Gi", cpu_throttling=False, gpu="nvidia-rtx-pro-6000")
    assert plan.container()["resources"]["limits"] == {"cpu": "20", "memory": "80Gi", "nvidia.com/gpu": "1"}
    assert template(plan)["nodeSelector"] == {"accelerator": "nvidia-rtx-pro-6000"}
    assert plan.service().inputs["launchStage"] == "BETA"


def test_a_volume_on_disk_has_its_size_and_the_generation_that_mounts_it(build):
    plan = build(volumes={"scratch": {"disk": "10Gi", "mount": "/scratch"}})
    assert template(plan)["volumes"] == [{"name": "scratch", "emptyDir": {"medium": "DISK", "sizeLimit": "10Gi"}}]
    assert template(plan)["executionEnvironment"] == "EXECUTION_ENVIRONMENT_GEN2"
    assert plan.service().inputs["launchStage"] == "GA"


def test_a_probe_by_grpc_asks_the_health_service_and_needs_no_path(build):
    probes = {"startup": {"grpc": {}}, "liveness": {"grpc": {"service": "acme.Weather"}, "port": 9000, "period": 60}}
    container = build(probes=probes, use_http2=True).container()
    assert container["startupProbe"]["grpc"] == {"port": 5000}
    assert container["livenessProbe"]["grpc"] == {"port": 9000, "service": "acme.Weather"}
    assert not {"httpGet", "tcpSocket"} & {*container["startupProbe"], *container["livenessProbe"]}


def test_a_gpu_is_a_limit_and_a_kind_of_machine(build):
    plan = build(cpu=4, memory="16Gi", cpu_throttling=False, gpu="nvidia-l4", gpu_zonal_redundancy=False)
    assert plan.container()["resources"]["limits"] == {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"}
    assert template(plan)["nodeSelector"] == {"accelerator": "nvidia-l4"}
    assert template(plan)["gpuZonalRedundancyDisabled"] is True


def test_the_protocol_is_always_said_as_an_update_would_keep_the_last(build):
    assert build().container()["ports"] == {"containerPort": 5000, "name": "http1"}
    assert build(use_http2=True).container()["ports"] == {"containerPort": 5000, "name": "h2c"}


def test_affinity_and_a_key_are_the_revisions(build):
    key = "projects/acme-dev/locations/europe-west1/keyRings/mcp/cryptoKeys/run"
    revision = template(build(session_affinity=True, encryption_key=key))
    assert (revision["sessionAffinity"], revision["encryptionKey"]) == (True, key)
    assert {"sessionAffinity", "encryptionKey", "nodeSelector"}.isdisjoint(template(build()))


@pytest.mark.parametrize(
    ("policy", "message"),
    [("default", {"useDefault": True}), (POLICY, {"policy": POLICY})],
    ids=["default", "own"],
)
def test_images_have_to_meet_the_policy(build, policy, message):
    assert build(binary_authorization=policy).service().inputs["binaryAuthorization"] == message


def test_a_servers_own_labels_and_notes_stand_beside_the_fleets(build):
    access = {"public": {"reason": "no private data in it"}}
    inputs = build(labels={"team": "a"}, annotations={"acme.dev/owner": "ada"}, access=access).service().inputs
    assert inputs["labels"] == {"team": "a"}
    assert inputs["annotations"] == {
        "acme.dev/owner": "ada",
        "mcpfleet/access": "public",
        "mcpfleet/public-reason": "no private data in it",
    }


def test_cloud_sql_has_its_volume_and_the_account_may_connect(build):
    instance = "acme-dev:europe-west1:tools"
    plan = build(cloudsql_instances=[instance])
    assert template(plan)["volumes"] == [{"name": "cloudsql", "cloudSqlInstance": {"instances": [instance]}}]
    assert plan.container()["volumeMounts"] == [{"name": "cloudsql", "mountPath": "/cloudsql"}]
    (grant,) = plan.of(ROLE_GRANT)
    assert (grant.inputs["role"], grant.inputs["member"]) == ("roles/cloudsql.client", IDENTITY)


def test_an_export_is_mounted_in_the_second_generation(build):
    export = {"server": "10.0.0.2", "path": "/share"}
    revision = template(build(vpc={"network": "a"}, volumes={"data": {"nfs": export, "mount": "/data"}}))
    assert revision["volumes"] == [{"name": "data", "nfs": {**export, "readOnly": True}}]
    assert revision["executionEnvironment"] == "EXECUTION_ENVIRONMENT_GEN2"


def test_a_secrets_versions_are_several_files_each_with_its_mode(build):
    items = {"new.pem": {"version": 2}, "old/key.pem": {"version": 1, "mode": "0400"}}
    volume = {"secret": "tls", "items": items, "mode": "0440", "mount": "/etc/tls"}
    (mounted,) = template(build(volumes={"tls": volume}))["volumes"]
    assert mounted["secret"] == {
        "secret": "tls",
        "defaultMode": 0o440,
        "items": [{"path": "new.pem", "version": "2"}, {"path": "old/key.pem", "version": "1", "mode": 0o400}],
    }


def test_a_connector_is_named_in_full_and_needs_no_interface(build):
    vpc_access = template(build(vpc={"connector": "mcp"}))["vpcAccess"]
    assert vpc_access == {
        "egress": "PRIVATE_RANGES_ONLY",
        "connector": "projects/p/locations/europe-west1/connectors/mcp",
    }
    shared = "projects/acme-host/locations/europe-west1/connectors/mcp"
    assert template(build(vpc={"connector": shared, "all_traffic": True}))["vpcAccess"]["connector"] == shared
