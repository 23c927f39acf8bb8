"""Builds in the cloud: who builds, where sources go, what is built. That it builds is tests/integration's."""

import json

import pulumi
import pytest

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.components.foundation import Foundation, FoundationInFleet, required_apis
from pulumi_mcpfleet.components.mcp_client import ClientInFleet, McpClient
from pulumi_mcpfleet.components.mcp_server import McpServer, ServerInFleet
from pulumi_mcpfleet.fleet import parse_fleet
from tests.unit.infra.conftest import ACCOUNT, API, CLOUD_IMAGE, DIGEST, IMAGE, SERVICE

BUCKET = "gcp:storage/bucket:Bucket"
ON_BUCKET = "gcp:storage/bucketIAMMember:BucketIAMMember"
ON_REPOSITORY = "gcp:artifactregistry/repositoryIamMember:RepositoryIamMember"
ON_PROJECT = "gcp:projects/iAMMember:IAMMember"
FOLDER = {"folder": "./weather", "builder": "cloud-build"}


@pytest.fixture
def root(tmp_path):
    """The folder of Pulumi.yaml."""
    for name, text in {
        "weather/requirements.txt": "mcp==2.3.0\n",
        "weather/server.py": "",
        "own/deploy/Dockerfile": "FROM scratch",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def up(deploy, root):
    """Deploy a fleet of these servers' sources; further keys are the fleet's."""

    def program(servers, fleet):
        parsed = parse_fleet(
            {
                "region": "europe-west1",
                "servers": {name: {"source": source} for name, source in servers.items()},
                **fleet,
            },
            root=root,
        )
        foundation = Foundation.in_fleet(
            "fleet",
            FoundationInFleet(
                project="acme",
                region="europe-west1",
                apis=required_apis(parsed),
                registry=parsed.registry,
                cloud_build=parsed.cloud_build,
                platform=parsed.platform,
                root=root,
                labels={"team": "x"},
            ),
        )
        components = {
            name: McpServer.in_fleet(
                name, ServerInFleet(project="acme", regions=parsed.all_regions, foundation=foundation, spec=spec)
            )
            for name, spec in parsed.servers.items()
        }
        for name, spec in parsed.clients.items():
            args = ClientInFleet(
                project="acme", region="europe-west1", foundation=foundation, spec=spec, servers=components
            )
            McpClient.in_fleet(name, args)

    return lambda servers, answers=True, **fleet: deploy(lambda: program(servers, fleet), cloud_answers=answers)


@pytest.mark.parametrize(
    ("project", "warnings"), [("", 1), ("plugins: {providers: [{name: mcpfleet-build, path: .venv/bin}]}", 0)]
)
def test_a_preview_warns_if_pulumi_yaml_lacks_the_provider_that_builds(up, root, monkeypatch, project, warnings):
    (root / "Pulumi.yaml").write_text(f"name: acme\nruntime: python\n{project}")
    texts = []
    monkeypatch.setattr(pulumi, "warn", lambda text, _resource=None: texts.append(text))
    up({"weather": FOLDER})
    assert len(texts) == warnings
    assert all(text.startswith("weather: Pulumi.yaml does not say where") for text in texts)


def test_a_source_that_says_so_is_built_by_cloud_build_and_deployed_by_its_digest(up):
    plan = up({"weather": {**FOLDER, "build_args": {"BASE_IMAGE": "b"}}})
    assert plan.of(IMAGE) == []
    inputs = plan.one(CLOUD_IMAGE).inputs
    assert 'CMD ["python", "server.py"]' in inputs.pop("inline")
    assert inputs == {
        "project": "acme",
        "location": "europe-west1",
        "bucket": "acme-mcpfleet-source",
        "serviceAccount": "mcpfleet-build@acme.iam.gserviceaccount.com",
        "image": "europe-west1-docker.pkg.dev/acme/mcpfleet/weather",
        "context": "./weather",
        "buildArgs": {"BASE_IMAGE": "b"},
        "labels": {"dev.mcpfleet.builder": "cloud-build"},
        "timeout": 1200,
    }
    assert plan.container("weather")["image"] == f"europe-west1-docker.pkg.dev/acme/mcpfleet/weather@{DIGEST}"


def test_a_stage_of_a_dockerfile_reaches_cloud_build(up):
    source = {"build": "./own/deploy", "builder": "cloud-build", "target": "prod"}
    assert up({"weather": source}).one(CLOUD_IMAGE).inputs["target"] == "prod"


def test_its_options_reach_cloud_build_in_its_own_words(up):
    inputs = (
        up({"weather": FOLDER}, cloud_build={"machine_type": "e2-highcpu-8", "timeout": 3600}).one(CLOUD_IMAGE).inputs
    )
    assert (inputs["machineType"], inputs["timeout"]) == ("E2_HIGHCPU_8", 3600)


def test_a_stack_may_have_images_built_there_for_the_machine_that_builds(up):
    assert "platform" not in up({"weather": FOLDER}).one(CLOUD_IMAGE).inputs
    assert up({"weather": FOLDER}, platform="native").one(CLOUD_IMAGE).inputs["platform"] == "native"


@pytest.mark.parametrize(
    ("source", "context", "dockerfile"),
    [
        ({"build": "./own/deploy"}, "./own/deploy", "Dockerfile"),
        ({"folder": "./own", "dockerfile": "deploy/Dockerfile"}, "./own", "deploy/Dockerfile"),
        ({"stdio": {"npm": "@a/b@1.2.3"}}, ".mcpfleet/sources/bridge-weather", None),
    ],
)
def test_every_kind_of_source_that_is_built_can_be_built_there(up, source, context, dockerfile):
    inputs = up({"weather": {**source, "builder": "cloud-build"}}).one(CLOUD_IMAGE).inputs
    assert inputs["context"] == context
    assert inputs.get("dockerfile") == dockerfile
    assert ("inline" in inputs) == (dockerfile is None)


@pytest.mark.parametrize(
    "source", [{"folder": "./weather"}, {"build": "./own/deploy"}, {"stdio": {"npm": "@a/b@1.2.3"}}]
)
def test_another_builder_makes_another_digest_of_the_same_source(up, source):
    """The old builder's image is deleted last, by its digest: it must not be the one that has just been deployed."""
    by_docker = up({"weather": source}).one(IMAGE).inputs
    in_cloud = up({"weather": {**source, "builder": "cloud-build"}}).one(CLOUD_IMAGE).inputs
    assert in_cloud["labels"] != by_docker.get("labels", {})
    assert in_cloud["labels"].keys() - by_docker.get("labels", {}) == {"dev.mcpfleet.builder"}


def test_the_account_that_builds_may_read_sources_write_images_and_log_and_no_more(up):
    plan = up({"weather": FOLDER})
    member = "serviceAccount:mcpfleet-build@acme.iam.gserviceaccount.com"
    granted = {
        (grant.inputs["role"], grant.inputs.get("bucket") or grant.inputs.get("repository") or grant.inputs["project"])
        for kind in (ON_BUCKET, ON_REPOSITORY, ON_PROJECT)
        for grant in plan.of(kind)
        if grant.inputs["member"] == member
    }
    assert granted == {
        ("roles/storage.objectViewer", "acme-mcpfleet-source"),
        ("roles/artifactregistry.writer", "mcpfleet"),
        ("roles/logging.logWriter", "acme"),
    }
    assert member not in {f"serviceAccount:{grant.inputs['template']['serviceAccount']}" for grant in plan.of(SERVICE)}


def test_a_build_waits_for_the_rights_of_its_account_and_for_the_apis(up):
    plan = up({"weather": FOLDER})
    dependencies = plan.before(plan.one(CLOUD_IMAGE))
    assert {kind for kind, _ in dependencies} >= {ON_BUCKET, ON_REPOSITORY, ON_PROJECT, BUCKET, API}
    assert {"fleet-cloudbuild", "fleet-logging", "fleet-storage"} <= {
        name for kind, name in dependencies if kind == API
    }


def test_the_bucket_of_sources_is_closed_short_lived_and_goes_with_the_stack(up):
    inputs = up({"weather": FOLDER}).one(BUCKET).inputs
    assert inputs["uniformBucketLevelAccess"] is True
    assert inputs["publicAccessPrevention"] == "enforced"
    assert inputs["lifecycleRules"] == [{"action": {"type": "Delete"}, "condition": {"age": 30}}]
    assert inputs["forceDestroy"] is True
    assert inputs["labels"] == {"team": "x"}


def test_many_servers_and_clients_share_one_bucket_and_one_account(up):
    client = {"source": {"build": "./own/deploy", "builder": "cloud-build"}, "calls": ["one"]}
    plan = up({"one": FOLDER, "two": FOLDER}, clients={"helper": client})
    assert plan.names(CLOUD_IMAGE) == {"one", "two", "helper"}
    assert len(plan.of(BUCKET)) == 1
    assert [account.inputs["accountId"] for account in plan.of(ACCOUNT)].count("mcpfleet-build") == 1


def test_a_fleet_that_builds_nothing_there_has_none_of_it(up):
    plan = up({"weather": {"folder": "./weather"}})
    assert plan.of(BUCKET) == plan.of(ON_REPOSITORY) == plan.of(CLOUD_IMAGE) == []
    assert "fleet-cloudbuild" not in plan.names(API)


def test_the_preview_of_a_new_stack_asks_no_cloud(up):
    inputs = up({"weather": FOLDER}, answers=False).one(CLOUD_IMAGE).inputs
    assert inputs["context"] == "./weather"


def test_a_builder_without_its_api_is_named(deploy, root):
    def program():
        spec = parse_fleet({"region": "europe-west1", "servers": {"weather": {"source": FOLDER}}}, root=root).servers[
            "weather"
        ]
        foundation = Foundation.in_fleet("fleet", FoundationInFleet(project="acme", region="europe-west1", root=root))
        McpServer.in_fleet(
            "weather", ServerInFleet(project="acme", regions=["europe-west1"], foundation=foundation, spec=spec)
        )

    with pytest.raises(pulumi.RunError, match=r"cloud-build needs the API cloudbuild\.googleapis\.com"):
        deploy(program)


@pytest.mark.parametrize(
    ("project", "repository"),
    [("p" * 30, "r" * 63), ("google-acme", "mcp"), ("acme.dev:team", "x"), ("acme-1", "m")],
)
def test_names_stay_within_the_clouds_limits(project, repository):
    bucket, account = naming.source_bucket(project, repository), naming.builder_account_id(repository)
    assert len(bucket) <= 63
    assert set(bucket) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert "google" not in bucket
    assert 6 <= len(account) <= 30


def test_names_that_are_cut_stay_apart():
    assert naming.builder_account_id("r" * 40 + "1") != naming.builder_account_id("r" * 40 + "2")


def test_the_bridge_is_sent_whatever_the_ignore_files_say(up, root):
    (root / "weather" / ".gitignore").write_text(".*\n*.lock\n")
    plan = up({"weather": {**FOLDER, "speaks": "stdio", "start": ["python", "server.py"]}})
    context = plan.one(CLOUD_IMAGE).inputs["context"]

    from pulumi_mcpfleet.cloud_build.ignore_files import included_files

    assert {".mcpfleet-bridge/mcpfleet_bridge/edge.py", ".mcpfleet-bridge/requirements.txt"} <= set(
        included_files(root / context)
    )
    assert json.dumps(plan.one(CLOUD_IMAGE).inputs)
