"""Tests of a service's secrets, volumes, sidecars and boolean settings, through the whole cloud."""

import base64

import pytest

from mcpfleet_local_cloud.data_plane.contract import BucketFolder, EmptyDir, Mount, SecretFile, SecretFiles, SecretRef

BASE = "/run/v2/projects/mcpfleet-local/locations/europe-west1"
SERVICES = f"{BASE}/services"
SECRETS = "/secretmanager/v1/projects/mcpfleet-local/secrets"
COMPUTE = "481516234200-compute@developer.gserviceaccount.com"
ACCESSOR = "roles/secretmanager.secretAccessor"
IMAGE = "docker.io/acme/hello:1"


@pytest.fixture
def api(running):
    running.enable("run", "secretmanager", "storage")
    return running


@pytest.fixture
def secret(api):
    """A secret `db` with one version, which only its owners can read."""
    api.call("POST", f"{SECRETS}?secretId=db", {"replication": {"automatic": {}}})
    add_version(api, b"swordfish")
    return "projects/mcpfleet-local/secrets/db"


def add_version(api, value):
    body = {"payload": {"data": base64.b64encode(value).decode()}}
    assert api.call("POST", f"{SECRETS}/db:addVersion", body).status_code == 200


def deployed(api, template, name="hello", **extra):
    """The finished operation of creating a service."""
    answer = api.call("POST", f"{SERVICES}?serviceId={name}", {"template": template, **extra})
    assert answer.status_code == 200, answer.text
    return api.call("POST", f"/run/v2/{answer.json()['name']}:wait", {}).json()


def with_env(**selector):
    env = [{"name": "DB", "valueSource": {"secretKeyRef": selector}}]
    return {"containers": [{"image": IMAGE, "env": env}]}


def with_volume(source, **mount):
    mounts = [{"name": "v", "mountPath": "/v", **mount}]
    return {"containers": [{"image": IMAGE, "volumeMounts": mounts}], "volumes": [{"name": "v", **source}]}


def only(api):
    (revision,) = api.plane.running.values()
    return revision


PERMISSION_DENIED = (
    "Permission denied on secret: projects/481516234200/secrets/db/versions/1 for Revision service account "
    f"{COMPUTE}. The service account used must be granted the 'Secret Manager Secret Accessor' role "
    "(roles/secretmanager.secretAccessor) at the secret, project or higher level."
)
SOURCES = [
    with_env(secret="db", version="1"),
    with_volume({"secret": {"secret": "db", "items": [{"path": "a", "version": "1"}]}}),
]


@pytest.mark.parametrize("template", SOURCES, ids=["variable", "file"])
def test_a_revision_without_access_to_its_secret_gets_googles_error(api, secret, template):
    done = deployed(api, template)
    assert done["error"]["code"] == 9
    assert done["error"]["message"].startswith("Revision 'hello-00001-")
    assert done["error"]["message"].endswith(PERMISSION_DENIED)
    assert api.plane.running == {}


@pytest.mark.parametrize("template", SOURCES, ids=["variable", "file"])
@pytest.mark.parametrize("level", ["secret", "project"])
def test_a_revision_runs_with_the_role_on_the_secret_or_the_project(api, secret, template, level):
    api.grant(ACCESSOR, f"serviceAccount:{COMPUTE}", secret if level == "secret" else None)
    assert "error" not in deployed(api, template)
    assert "swordfish" not in repr(only(api)), "values are read when an instance starts"


@pytest.mark.parametrize(
    ("selector", "displayed_name"),
    [({"secret": "none"}, "none/versions/latest"), ({"secret": "db", "version": "9"}, "db/versions/9")],
)
def test_a_missing_secret_or_version_is_named(api, secret, selector, displayed_name):
    api.grant(ACCESSOR, f"serviceAccount:{COMPUTE}")
    done = deployed(api, with_env(**selector))
    assert f"Secret projects/481516234200/secrets/{displayed_name} was not found" in done["error"]["message"]


def test_a_disabled_secret_version_is_refused(api, secret):
    api.grant(ACCESSOR, f"serviceAccount:{COMPUTE}")
    api.call("POST", f"{SECRETS}/db/versions/1:disable", {})
    assert "is in DISABLED state" in deployed(api, with_env(secret="db", version="1"))["error"]["message"]


def test_a_secrets_full_name_is_accepted_and_another_projects_is_refused(api, secret):
    api.grant(ACCESSOR, f"serviceAccount:{COMPUTE}")
    assert "error" not in deployed(api, with_env(secret="projects/481516234200/secrets/db"))
    other = deployed(api, with_env(secret="projects/acme/secrets/db"), name="other")
    assert "Permission denied on secret: projects/acme/secrets/db/versions/latest" in other["error"]["message"]


def test_a_secrets_value_is_read_when_it_is_requested(api, secret):
    api.grant(ACCESSOR, f"serviceAccount:{COMPUTE}")
    ref = SecretRef(secret=secret)
    assert api.cloud._instance_data.secret(ref, COMPUTE) == b"swordfish"
    add_version(api, b"newer")
    assert api.cloud._instance_data.secret(ref, COMPUTE) == b"newer"
    assert api.cloud._instance_data.secret(SecretRef(secret=secret, version="1"), COMPUTE) == b"swordfish"


def test_a_change_of_a_secrets_versions_is_reported_to_mounting_services(api, secret):
    notified = []
    api.cloud.secrets.watch(notified.append)
    add_version(api, b"newer")
    api.call("POST", f"{SECRETS}/db/versions/1:disable", {})
    api.call("DELETE", f"{SECRETS}/db")
    assert notified == [secret] * 3


def test_volumes_reach_the_data_plane_as_requested(api, secret):
    api.grant(ACCESSOR, f"serviceAccount:{COMPUTE}")
    items = [{"path": "a/b", "version": "1", "mode": 256}, {"path": "c"}]
    assert "error" not in deployed(api, with_volume({"secret": {"secret": "db", "items": items, "defaultMode": 292}}))
    (volume,) = only(api).volumes
    files = (SecretFile(path="a/b", version="1", mode=0o400), SecretFile(path="c", version="latest", mode=0o444))
    assert volume.source == SecretFiles(secret=secret, files=files)
    assert only(api).main.mounts == (Mount(volume="v", path="/v"),)


def test_a_secret_volume_without_items_is_one_file_with_the_secrets_name(api, secret):
    api.grant(ACCESSOR, f"serviceAccount:{COMPUTE}")
    deployed(api, with_volume({"secret": {"secret": "db"}}))
    assert only(api).volumes[0].source.files == (SecretFile(path="db", version="latest", mode=0o444),)


@pytest.mark.parametrize(("limit", "size"), [({"sizeLimit": "64Mi"}, 64 * 2**20), ({}, 256 * 2**20)])
def test_a_memory_volume_has_its_limit_or_half_of_the_instances_memory(api, limit, size):
    deployed(api, with_volume({"emptyDir": {"medium": "MEMORY", **limit}}))
    assert only(api).volumes[0].source == EmptyDir(size_bytes=size)


def test_a_grpc_probe_defaults_to_the_containers_port(api):
    probes = {"startupProbe": {"grpc": {}}, "livenessProbe": {"grpc": {"port": 9000, "service": "acme.Weather"}}}
    body = {"containers": [{"image": "docker.io/acme/hello:1", **probes}]}
    assert "error" not in deployed(api, body)
    started, alive = only(api).main.startup_probe, only(api).main.liveness_probe
    assert (started.port, started.grpc_service, started.http_path) == (8080, "", None)
    assert (alive.port, alive.grpc_service) == (9000, "acme.Weather")


def test_a_disk_volume_does_not_count_as_memory(api):
    deployed(api, with_volume({"emptyDir": {"medium": "DISK", "sizeLimit": "10Gi"}}))
    assert only(api).volumes[0].source == EmptyDir(size_bytes=10 * 2**30, on_disk=True)


def test_a_bucket_is_mounted_only_if_the_account_can_use_its_objects(api):
    template = with_volume({"gcs": {"bucket": "data", "readOnly": True}})
    assert "The bucket 'data' of a volume was not found." in deployed(api, template)["error"]["message"]
    assert api.call("POST", "/storage/v1/b?project=mcpfleet-local", {"name": "data"}).status_code == 200
    refused = deployed(api, template, name="second")["error"]["message"]
    assert f"{COMPUTE} lacks storage.objects.list, storage.objects.get on the bucket 'data'" in refused
    api.grant("roles/storage.objectViewer", f"serviceAccount:{COMPUTE}", "projects/mcpfleet-local/buckets/data")
    assert "error" not in deployed(api, template, name="third")
    assert only(api).volumes[0].source == BucketFolder(bucket="data", read_only=True)
    writing = deployed(api, with_volume({"gcs": {"bucket": "data"}}), name="fourth")["error"]["message"]
    assert "lacks storage.objects.create, storage.objects.delete" in writing
    assert "roles/storage.objectUser" in writing


def test_the_container_with_the_port_is_the_ingress_in_any_order(api):
    containers = [
        {
            "image": "docker.io/acme/proxy:1",
            "name": "proxy",
            "resources": {"limits": {"cpu": "0.5", "memory": "128Mi"}},
        },
        {"image": IMAGE, "name": "app", "ports": [{"containerPort": 9000}], "dependsOn": ["proxy"]},
    ]
    done = deployed(api, {"containers": containers})
    assert "error" not in done
    revision = only(api)
    assert (revision.main.name, revision.main.port, revision.main.depends_on) == ("app", 9000, ("proxy",))
    (_, sidecar) = revision.containers
    assert (sidecar.name, sidecar.port, sidecar.startup_probe) == ("proxy", None, None)
    assert sidecar.memory_bytes == 128 * 2**20
    assert sidecar.image.startswith("docker.io/acme/proxy@sha256:")
    shown_containers = api.call("GET", f"{SERVICES}/hello").json()["template"]["containers"]
    assert "ports" not in shown_containers[0]
    assert "startupProbe" not in shown_containers[0]
    revisions = api.call("GET", f"{SERVICES}/hello/revisions").json()["revisions"]
    assert [container["image"].partition("@")[0] for container in revisions[0]["containers"]] == [
        "docker.io/acme/proxy",
        "docker.io/acme/hello",
    ]


def test_a_disabled_default_url_is_not_shown_and_not_served(api):
    deployed(api, {"containers": [{"image": IMAGE}]}, defaultUriDisabled=True)
    document = api.call("GET", f"{SERVICES}/hello").json()
    assert not {"uri", "urls"} & set(document)
    assert document["defaultUriDisabled"] is True
    assert api.cloud.run.endpoints()[0].default_uri is False


def test_a_functional_type_cannot_be_changed(api):
    template = {"containers": [{"image": IMAGE}]}
    deployed(api, template)
    typed = {"template": template, "functionalType": "FUNCTIONAL_TYPE_MCP_SERVER"}
    assert api.call("PATCH", f"{SERVICES}/hello", typed).status_code == 200
    refused = api.call("PATCH", f"{SERVICES}/hello", {"template": template})
    assert refused.status_code == 400
    assert "functional_type: is immutable" in refused.json()["error"]["message"]
    assert api.call("GET", f"{SERVICES}/hello").json()["functionalType"] == "FUNCTIONAL_TYPE_MCP_SERVER"


def test_boolean_settings_reach_the_data_plane(api):
    probe = {"httpGet": {"path": "/ready"}, "periodSeconds": 2}
    template = {
        "containers": [{"image": IMAGE, "readinessProbe": probe}],
        "sessionAffinity": True,
        "healthCheckDisabled": True,
    }
    assert "error" not in deployed(api, template)
    revision = only(api)
    assert (revision.session_affinity, revision.health_checked) == (True, False)
    assert revision.main.readiness_probe.http_path == "/ready"
    assert (revision.main.readiness_probe.period, revision.main.readiness_probe.success_threshold) == (2, 2)


def test_two_regions_can_each_have_a_service_of_the_same_name(api):
    deployed(api, {"containers": [{"image": IMAGE}]})
    other = SERVICES.replace("europe-west1", "us-central1")
    answer = api.call("POST", f"{other}?serviceId=hello", {"template": {"containers": [{"image": IMAGE}]}})
    assert answer.status_code == 200
    api.call("POST", f"/run/v2/{answer.json()['name']}:wait", {})
    urls = [api.call("GET", f"{place}/hello").json()["urls"][-1] for place in (SERVICES, other)]
    assert urls == [
        "https://hello-481516234200.europe-west1.run.app",
        "https://hello-481516234200.us-central1.run.app",
    ]
    assert len(api.cloud.run.endpoints()) == 2
