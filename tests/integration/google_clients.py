"""Google's own clients against the APIs at a URL: `python google_clients.py URL CREDENTIALS TABLES`.

Prints a line of JSON for each step: its name, and what it gave, or what was raised. CREDENTIALS is the key file of an
account that may do everything; TABLES is the folder with the local cloud's tables, for the list of methods.
"""

import enum
import importlib
import io
import json
import sys
import traceback
from pathlib import Path

import google.auth
from google.api_core.client_options import ClientOptions
from google.cloud import artifactregistry_v1, run_v2, secretmanager_v1, storage
from googleapiclient.discovery import build

URL, CREDENTIALS, TABLES = sys.argv[1:]
UNIVERSE = "mcpfleet.test"
PROJECT = "projects/mcpfleet-local"
PLACE = f"{PROJECT}/locations/europe-west1"
# What comes before a method's path in a discovery document.
ROOTS = {
    "cloudbilling": "billing/",
    "cloudresourcemanager": "crm/",
    "compute": "compute/v1/",
    "dns": "",
    "storage": "storage/v1/",
}
GLOBAL = ("certificatemanager", "iam", "networkservices")
BELOW = {
    "certificateMapEntries": "/certificateMaps/aa",
    "dockerImages": "/repositories/aa",
    "keys": "/serviceAccounts/account-aa@mcpfleet-local.iam.gserviceaccount.com",
    "providers": "/workloadIdentityPools/pool-aa",
    "revisions": "/services/aa",
    "versions": "/secrets/aa",
}
VALUES = {
    "project": "mcpfleet-local",
    "projectId": "mcpfleet-local",
    "region": "europe-west1",
    "bucket": "bucket-aa",
    "managedZone": "aa",
    "body": {"resourceNames": [PROJECT], "filter": 'resource.labels.build_id="aa"'},
}
STEPS = []


def step(do):
    STEPS.append(do)
    return do


def client(kind, path):
    return kind(
        credentials=google.auth.load_credentials_from_file(CREDENTIALS)[0],
        transport="rest",
        client_options=ClientOptions(api_endpoint=f"{URL}/{path}", universe_domain=UNIVERSE),
    )


@step
def run():
    services, revisions = client(run_v2.ServicesClient, "run"), client(run_v2.RevisionsClient, "run")
    template = run_v2.RevisionTemplate(
        execution_environment=run_v2.ExecutionEnvironment.EXECUTION_ENVIRONMENT_GEN2,
        timeout={"seconds": 60},
        containers=[run_v2.Container(image="docker.io/acme/hello:1", env=[run_v2.EnvVar(name="A", value="b")])],
    )
    wanted = run_v2.Service(
        ingress=run_v2.IngressTraffic.INGRESS_TRAFFIC_INTERNAL_ONLY,
        launch_stage="BETA",
        template=template,
        traffic=[{"type_": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "percent": 100}],
    )
    tried = {"parent": PLACE, "service": wanted, "service_id": "tried", "validate_only": True}
    services.create_service(request=tried)
    made = services.create_service(parent=PLACE, service=wanted, service_id="made").result(timeout=30)
    assert (made.ingress, made.launch_stage, made.template.timeout.seconds) == (2, 3, 60), made
    made.labels["a"] = "b"
    made = services.update_service(service=made, update_mask={"paths": ["labels"]}).result(timeout=30)
    made.description = "whole"
    made = services.update_service(service=made).result(timeout=30)
    assert (dict(made.labels), made.description) == ({"a": "b"}, "whole"), made
    policy = services.get_iam_policy(request={"resource": made.name})
    policy.bindings.add(role="roles/run.invoker", members=["allUsers"])
    kept = services.set_iam_policy(request={"resource": made.name, "policy": policy})
    assert kept.bindings == policy.bindings
    asked = {"resource": made.name, "permissions": ["run.routes.invoke"]}
    assert services.test_iam_permissions(request=asked).permissions == asked["permissions"]
    assert [item.service for item in revisions.list_revisions(parent=made.name)] == ["made"]
    assert services.delete_service(name=made.name).result(timeout=30).name == made.name
    return [item.name.rpartition("/")[2] for item in services.list_services({"parent": PLACE, "page_size": 1})]


@step
def secret_manager():
    secrets = client(secretmanager_v1.SecretManagerServiceClient, "secretmanager")
    made = secrets.create_secret(parent=PROJECT, secret_id="made", secret={"replication": {"automatic": {}}})
    version = secrets.add_secret_version(parent=made.name, payload={"data": b"\xff\x00hi"})
    assert secrets.access_secret_version(name=f"{made.name}/versions/latest").payload.data == b"\xff\x00hi"
    assert secrets.disable_secret_version(name=version.name).state.name == "DISABLED"
    assert secrets.enable_secret_version(name=version.name).state.name == "ENABLED"
    changed = secrets.update_secret(secret={"name": made.name, "labels": {"a": "b"}}, update_mask={"paths": ["labels"]})
    assert changed.labels == {"a": "b"}
    secrets.get_iam_policy(request={"resource": made.name, "options": {"requested_policy_version": 3}})
    assert secrets.destroy_secret_version(name=version.name).state.name == "DESTROYED"
    secrets.delete_secret(name=made.name)
    return [item.name.rpartition("/")[2] for item in secrets.list_secrets({"parent": PROJECT, "page_size": 1})]


@step
def artifact_registry():
    registry = client(artifactregistry_v1.ArtifactRegistryClient, "artifactregistry")
    old = {"older_than": {"seconds": 86400}, "tag_state": "UNTAGGED"}
    wanted = {"format": "DOCKER", "cleanup_policies": {"old": {"action": "DELETE", "condition": old}}}
    made = registry.create_repository(parent=PLACE, repository_id="made", repository=wanted).result(timeout=30)
    made.description = "changed"
    changed = registry.update_repository(repository=made, update_mask={"paths": ["description"]})
    assert (changed.description, changed.cleanup_policies["old"].condition.tag_state) == ("changed", 2), changed
    assert len(list(registry.list_docker_images(parent=f"{PLACE}/repositories/aa"))) == 2
    registry.delete_repository(name=made.name).result(timeout=30)
    return [item.name.rpartition("/")[2] for item in registry.list_repositories({"parent": PLACE, "page_size": 1})]


@step
def cloud_storage():
    credentials, _ = google.auth.load_credentials_from_file(CREDENTIALS)
    options = ClientOptions(api_endpoint=URL, universe_domain=UNIVERSE)
    client = storage.Client(project="mcpfleet-local", credentials=credentials, client_options=options)
    bucket = client.bucket("bucket-made")
    bucket.iam_configuration.uniform_bucket_level_access_enabled = True
    client.create_bucket(bucket, location="EU")
    text = bucket.blob("a/text")
    text.metadata = {"k": "v"}
    text.upload_from_string(b"hello", content_type="text/plain")
    assert text.download_as_bytes(start=1, end=3) == b"ell"
    large = bucket.blob("large", chunk_size=256 * 1024)
    large.upload_from_file(io.BytesIO(b"x" * 700 * 1024))
    assert len(large.download_as_bytes()) == 700 * 1024
    try:
        large.upload_from_file(io.BytesIO(b"y" * 700 * 1024), if_generation_match=0)
        raise AssertionError("it wrote over what is there")
    except google.api_core.exceptions.PreconditionFailed:
        pass
    large.metadata = {"q": "r"}
    large.patch()
    assert large.metageneration == 2
    assert not bucket.blob("nobody").exists()
    policy = bucket.get_iam_policy(requested_policy_version=3)
    policy.bindings.append({"role": "roles/storage.objectViewer", "members": {"allUsers"}})
    assert bucket.set_iam_policy(policy).bindings == policy.bindings
    folders = client.list_blobs(bucket, delimiter="/")
    assert ([item.name for item in folders], folders.prefixes) == (["large"], {"a/"})
    assert len(list(client.list_blobs(bucket, page_size=1))) == 2
    bucket.delete(force=True)
    return sorted(item.name for item in client.list_buckets(page_size=1))


@step
def every_list_by_its_discovery_document():
    """Each list of every API in pages of one; the number of pages by the method's name."""
    found = {}
    for file in sorted(Path(TABLES).glob("*.json")):
        table = json.loads(file.read_text())
        name, version = table["api"].split(".")
        root = f"{URL}/{ROOTS.get(name, f'{name}/')}"
        credentials, _ = google.auth.load_credentials_from_file(
            CREDENTIALS, scopes=["https://www.googleapis.com/auth/cloud-platform"]
        )
        options = ClientOptions(api_endpoint=root, universe_domain=UNIVERSE)
        api = build(name, version, credentials=credentials, client_options=options, static_discovery=True)
        for path, method in table["methods"].items():
            *parts, last = method["id"].split(".")[1:]
            if last == "list":
                found[f"{table['api']} {method['id']}"] = pages(api, name, parts, path, method.get("query", {}))
    return found


def pages(api, name, parts, path, query):
    collection = api
    for part in parts:
        collection = getattr(collection, part)()
    place = f"{PROJECT}/locations/global" if name in GLOBAL else PLACE
    parent = (place if "{location}" in path else PROJECT) + BELOW.get(parts[-1], "")
    described = collection.list.__doc__
    values = {
        key: value
        for key, value in {**VALUES, "parent": parent, "name": parent}.items()
        if f"  {key}: {'object' if key == 'body' else 'string'}" in described and (key not in query or key == "project")
    }
    size = next((item for item in ("maxResults", "pageSize") if item in query), "")
    request, count = collection.list(**values, **({size: 1} if size else {})), 0
    while request is not None:
        answer, count = request.execute(), count + 1
        request = collection.list_next(request, answer) if hasattr(collection, "list_next") else None
    return count


@step
def numbers_of_enums():
    """Every enum of the packages: its values by name."""
    found = {}
    for module in ("artifactregistry_v1", "devtools.cloudbuild_v1", "run_v2", "secretmanager_v1"):
        api = module.rpartition(".")[2].partition("_")[0]
        found[api] = [
            {item.name: item.value for item in kind}
            for kind in enums(importlib.import_module(f"google.cloud.{module}.types"), set())
        ]
    launch_stage = importlib.import_module("google.api.launch_stage_pb2").LaunchStage
    found["run"].append(dict(launch_stage.items()))
    return found


def enums(holder, seen):
    for name in dir(holder):
        kind = getattr(holder, name, None)
        if isinstance(kind, type) and kind.__module__.startswith("google.cloud.") and kind not in seen:
            seen.add(kind)
            if issubclass(kind, enum.IntEnum):
                yield kind
            else:
                yield from enums(kind, seen)


for do in STEPS:
    try:
        print(json.dumps({"step": do.__name__, "gave": do()}), flush=True)
    except Exception:
        print(json.dumps({"step": do.__name__, "raised": traceback.format_exc()}), flush=True)
