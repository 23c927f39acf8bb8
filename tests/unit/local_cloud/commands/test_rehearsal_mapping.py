"""The mapping of a stack's config to the local cloud of a rehearsal, and the values of its secrets."""

import copy

import httpx2
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.commands.rehearsal.dependencies import fetch_images, find_silent_issuers, isolate
from mcpfleet_local_cloud.commands.rehearsal.mapping import (
    MappingError,
    UnavailableError,
    dummy_value,
    map_config,
    outermost,
    to_yaml,
)
from mcpfleet_local_cloud.commands.rehearsal.rehearse import find_folder, removed_at_end, typed_command, write_config
from mcpfleet_local_cloud.commands.rehearsal.secret_values import check_names, read_secret_values
from pulumi_mcpfleet.fleet import parse_fleet
from pulumi_mcpfleet.projects import read_config
from tests.integration.checkout import ROOT

ADA = "user:ada@mcpfleet.test"
BASE = "mcpfleet/base:python3.13"


def mapped(tmp_path, fleet, *skip, values=None, **config):
    config = {"gcp:project": "acme-prod", "mcpfleet:fleet": {"region": "europe-west1", **fleet}, **config}
    return map_config(config, tmp_path, base_image=BASE, skip=skip, values=values)


def server(**keys):
    return {"servers": {"one": {"source": {"image": "docker.io/acme/a:1"}, **keys}}}


def mapped_server(rehearsal):
    return rehearsal.config["mcpfleet:fleet"]["servers"]["one"]


def test_the_shipped_production_fleet_is_valid_after_the_mapping():
    config = read_config(ROOT, "prod")
    before = copy.deepcopy(config)
    rehearsal = map_config(config, ROOT, base_image=BASE, skip=["servers.toolbox"])
    assert config == before, "the config that is mapped stays as it is"
    assert sorted(rehearsal.fleet.servers) == ["connector", "reference"]
    assert rehearsal.fleet.profile == "prod"
    assert rehearsal.config["gcp:project"] == "mcpfleet-local"
    assert rehearsal.config["gcp:universeDomain"] == "mcpfleet.test"
    assert [(secret.name, secret.versions) for secret in rehearsal.secrets] == [("mcp-state-key", 1)]
    for spec in rehearsal.fleet.servers.values():
        assert not spec.deletion_protection
        assert spec.source.build_args == {"BASE_IMAGE": BASE}
    parse_fleet(yaml.safe_load(to_yaml(rehearsal.config))["config"]["mcpfleet:fleet"], root=ROOT)


@pytest.mark.parametrize(
    ("access", "expected"),
    [
        (
            {"iam": {"invokers": ["group:a@acme.dev", "serviceAccount:b@acme-prod.iam.gserviceaccount.com"]}},
            {"iam": {"invokers": [ADA]}},
        ),
        ({"iap": {"members": ["domain:acme.dev"]}}, {"iap": {"members": [ADA]}}),
        ({"iam": {"invokers": []}}, {"iam": {"invokers": []}}),
    ],
)
def test_principals_become_a_user_of_the_local_cloud_and_nobody_stays_nobody(tmp_path, access, expected):
    rehearsal = mapped(tmp_path, {"organization": "481516234200", **server(access=access)})
    assert mapped_server(rehearsal)["access"] == expected
    assert "acme.dev" not in to_yaml(rehearsal.config)


def test_secrets_are_listed_with_the_versions_that_the_fleet_reads(tmp_path):
    fleet = server(
        secrets={
            "A": {"secret": "key", "version": "17"},
            "B": {"secret": "projects/acme-prod/secrets/key", "version": 4},
            "C": {"secret": "projects/other/secrets/key", "version": "latest"},
        },
        volumes={"v": {"secret": "pem", "items": {"x": {"version": "2"}, "y": {"version": "5"}}, "mount": "/m"}},
        labels={"secret": "y", "version": "9"},
    )
    rehearsal = mapped(tmp_path, fleet)
    assert {(secret.name, secret.local_name, secret.versions) for secret in rehearsal.secrets} == {
        ("key", "key", 17),
        ("projects/other/secrets/key", "other-key", 1),
        ("pem", "pem", 5),
    }
    assert mapped_server(rehearsal)["secrets"]["B"] == {"secret": "key", "version": 4}


def test_networks_accounts_and_buckets_of_google_become_those_of_the_local_project(tmp_path):
    fleet = server(
        vpc={"network": "projects/host/global/networks/mcp", "all_traffic": True},
        service_account="runner@acme-prod.iam.gserviceaccount.com",
        volumes={"b": {"gcs": {"bucket": "acme-files"}, "mount": "/b"}},
    )
    rehearsal = mapped(tmp_path, fleet)
    assert mapped_server(rehearsal)["vpc"] == {"network": "mcp", "all_traffic": True}
    account = "runner@mcpfleet-local.iam.gserviceaccount.com"
    assert mapped_server(rehearsal)["service_account"] == account
    assert (rehearsal.service_accounts, rehearsal.buckets) == ((account,), ("acme-files",))


def test_everything_that_the_local_cloud_lacks_is_named_at_once_and_can_be_skipped(tmp_path):
    fleet = server(
        gpu="nvidia-l4",
        gpu_zonal_redundancy=False,
        cpu=4,
        memory="16Gi",
        cpu_throttling=False,
        cloudsql_instances=["acme-prod:europe-west1:tools"],
        encryption_key="projects/acme-prod/locations/europe-west1/keyRings/r/cryptoKeys/k",
        binary_authorization="default",
        vpc={"network": "mcp"},
        volumes={"n": {"nfs": {"server": "10.0.0.2", "path": "/x"}, "mount": "/n"}},
        secrets={"A": {"secret": "key", "version": "4000"}},
    )
    with pytest.raises(UnavailableError) as raised:
        mapped(tmp_path, fleet)
    keys = ("gpu", "cloudsql_instances", "encryption_key", "binary_authorization", "volumes.n", "secrets.A")
    assert raised.value.keys == tuple(f"servers.one.{key}" for key in keys)
    assert "fleet.servers.one.gpu: the local cloud has no GPUs" in raised.value.lines
    rehearsal = mapped(tmp_path, fleet, *raised.value.keys)
    assert rehearsal.secrets == ()


def test_a_skipped_server_is_called_by_no_client_and_a_skipped_sidecar_is_not_waited_for(tmp_path):
    image = {"image": "docker.io/acme/a:1"}
    fleet = {
        "servers": {"one": {"source": image, "sidecars": {"p": image}, "depends_on": ["p"]}, "b2": {"source": image}},
        "clients": {"both": {"source": image, "calls": ["one", "b2"]}, "only": {"source": image, "calls": ["b2"]}},
    }
    rehearsal = mapped(tmp_path, fleet, "servers.b2", "fleet.servers.one.sidecars.p")
    assert sorted(rehearsal.fleet.servers) == ["one"]
    assert {name: list(client.calls) for name, client in rehearsal.fleet.clients.items()} == {"both": ["one"]}
    assert "clients.only is skipped: it calls only b2" in rehearsal.notes


@pytest.mark.parametrize("key", ["servers.b", "servers.one.volumes", "x.y", "", "servers.one.gpu", "fleet"])
def test_a_key_that_the_fleet_does_not_have_is_refused(tmp_path, key):
    with pytest.raises(MappingError, match="the fleet has no such key"):
        mapped(tmp_path, server(), key)


def test_mistakes_of_the_fleet_are_reported_with_their_paths(tmp_path):
    with pytest.raises(MappingError, match=r"fleet\.servers\.one\.acces"):
        mapped(tmp_path, server(acces={}))
    with pytest.raises(MappingError, match="mcpfleet:fleet: missing"):
        map_config({"gcp:project": "p"}, tmp_path, base_image=BASE)


@given(st.lists(st.sampled_from(["a", "a.b", "a.b.c", "ab", 'a["x"]', "b"]), max_size=8))
def test_only_outermost_keys_are_left(keys):
    result = outermost(keys)
    assert len(set(result)) == len(result)
    for key in keys:
        assert any(key == other or key.startswith((f"{other}.", f"{other}[")) for other in result)
    assert not {"a.b", "a.b.c", 'a["x"]'} & {*result} or "a" not in result


def test_credentials_of_google_and_encrypted_values_do_not_reach_the_rehearsal(tmp_path):
    config = {
        "gcp:credentials": "KEY",
        "gcp:accessToken": "KEY",
        "gcp:impersonateServiceAccount": "deployer@acme-prod.iam.gserviceaccount.com",
        "gcp:cloudRunV2CustomEndpoint": "https://run.googleapis.com/v2/",
        "gcp:region": "europe-west1",
        "other:token": {"secure": "v1:abc"},
        "other:nested": {"a": [{"secure": "v1:abc"}]},
        "other:size": 3,
    }
    rehearsal = mapped(tmp_path, server(), values={"other:nested.a.0": "given"}, **config)
    assert rehearsal.config["other:size"] == 3
    assert rehearsal.config["gcp:region"] == "europe-west1"
    assert rehearsal.config["other:token"] == dummy_value("other:token")
    assert rehearsal.config["other:nested"] == {"a": ["given"]}
    assert rehearsal.config_secrets == ("other:token", "other:nested.a.0")
    text = to_yaml(rehearsal.config)
    for leaked in ("KEY", "secure", "deployer@", "googleapis.com/v2"):
        assert leaked not in text


def test_a_dummy_value_says_that_it_is_not_a_real_secret():
    assert dummy_value("key") == "mcpfleet-rehearsal-dummy-for-key-not-a-real-secret"


def test_only_builds_on_the_pinned_base_image_get_the_local_one(tmp_path):
    sources = {"pinned": "ARG BASE_IMAGE=python:3.13-slim", "other": "ARG BASE_IMAGE=node:22\n"}
    for name, text in sources.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "Dockerfile").write_text(text)
    pinned = (ROOT / "mcp_server" / "Dockerfile").read_text()
    (tmp_path / "pinned" / "Dockerfile").write_text(pinned)
    rehearsal = mapped(tmp_path, {"servers": {name: {"source": {"folder": f"./{name}"}} for name in sources}})
    arguments = {name: dict(spec.source.build_args) for name, spec in rehearsal.fleet.servers.items()}
    assert arguments == {"pinned": {"BASE_IMAGE": BASE}, "other": {}}


def secrets_file(folder, text, mode=0o600):
    file = folder / "secrets.yaml"
    file.write_bytes(text)
    file.chmod(mode)
    return file


def test_values_of_secrets_are_read_as_text(tmp_path):
    file = secrets_file(tmp_path, b"a: '0123'\nb: 'x: y'\nc: |\n  two\n  lines\n")
    assert read_secret_values(file) == {"a": "0123", "b": "x: y", "c": "two\nlines\n"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_file_of_secrets_that_others_can_use_is_refused_with_the_command_that_changes_it(tmp_path, mode):
    with pytest.raises(SetupError) as refusal:
        read_secret_values(secrets_file(tmp_path, b"a: hunter2\n", mode))
    assert refusal.value.next_step.startswith("type: chmod 600 ")
    assert "hunter2" not in f"{refusal.value.message} {refusal.value.next_step}"


@pytest.mark.parametrize(
    "text",
    [
        b"hunter2",
        b"- hunter2",
        b"a: [hunter2]",
        b"a: {b: hunter2}",
        b"a: hunter2\nb: *x",
        b"\xff\xfehunter2",
        b"a:",
        b"a: 4711",
        b"a: !!python/object:os.system hunter2\n: :",
        b"x" * (1 << 20) + b"hunter2",
    ],
)
def test_another_content_is_refused_without_a_word_of_it(tmp_path, text):
    with pytest.raises(SetupError) as refusal:
        read_secret_values(secrets_file(tmp_path, text))
    assert "hunter2" not in f"{refusal.value.message} {refusal.value.next_step}"


def test_a_folder_or_a_missing_file_of_secrets_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(SetupError, match="--secrets"):
            read_secret_values(path)


def test_a_name_that_the_stack_does_not_read_is_refused_without_the_name(tmp_path):
    with pytest.raises(SetupError) as refusal:
        check_names(tmp_path / "s.yaml", ["hunter2", "key"], ["key"])
    assert "hunter2" not in f"{refusal.value.message} {refusal.value.next_step}"
    assert "key" in refusal.value.next_step


class Images:
    """Docker's images: those that it has, and those that a registry gives."""

    def __init__(self, present, pullable=()):
        self._present = present
        self._pullable = pullable
        self.pulled = []

    def get(self, name):
        if name not in self._present:
            raise OSError(name)

    def pull(self, name, tag, auth_config):
        assert auth_config == {"username": "", "password": ""}, "the user's logins are not used"
        self.pulled.append(f"{name} {tag}")
        if name not in self._pullable:
            raise OSError(f"{name} not found")


class Docker:
    def __init__(self, images):
        self.images = images


def fleet_with_images(**images):
    servers = {name: {"source": {"image": image}} for name, image in images.items()}
    return parse_fleet({"region": "europe-west1", "registry": {"remote": "ghcr.io"}, "servers": servers})


def test_missing_images_are_pulled_without_a_login_and_never_from_google():
    digest = "sha256:" + "0" * 64
    images = Images({"acme/a:1"}, {"ghcr.io/acme/b"})
    fleet = fleet_with_images(
        have="docker.io/acme/a:1",
        pull=f"ghcr.io/acme/b@{digest}",
        lost="docker.io/acme/c:2",
        google="europe-docker.pkg.dev/acme/r/d:1",
        old="eu.gcr.io/acme/e:1",
    )
    failures = dict(fetch_images(Docker(images), fleet))
    assert sorted(failures) == ["servers.google", "servers.lost", "servers.old"]
    assert images.pulled == [f"ghcr.io/acme/b {digest}", "docker.io/acme/c 2"]


def test_an_issuer_that_does_not_answer_is_found_and_googles_is_not_asked():
    asked = []

    def get(url, timeout):
        asked.append(url)
        if "silent" in url:
            raise httpx2.ConnectError("refused")

    issuers = {"good": "https://login.acme.dev", "bad": "https://silent.acme.dev/x"}
    issuers["goog"] = "https://accounts.google.com"
    access = {name: {"oauth": {"issuer": issuer}} for name, issuer in issuers.items()}
    image = {"image": "docker.io/acme/a:1"}
    fleet = parse_fleet(
        {"region": "europe-west1", "servers": {name: {"source": image, "access": access[name]} for name in issuers}}
    )
    assert find_silent_issuers(fleet, get) == {"bad": issuers["bad"], "goog": issuers["goog"]}
    assert sorted(asked) == [
        "https://login.acme.dev/.well-known/openid-configuration",
        "https://silent.acme.dev/x/.well-known/openid-configuration",
    ]


def test_the_environment_leads_to_no_cloud_and_no_login_of_the_user(tmp_path):
    folder = CloudFolder(root=tmp_path, state=tmp_path / "s", port=20_001)
    hostile = {
        "PATH": "/bin",
        "GOOGLE_OAUTH_ACCESS_TOKEN": "real",
        "GOOGLE_APPLICATION_CREDENTIALS": "/home/ada/real.json",
        "CLOUDSDK_CONFIG": "/home/ada/real",
        "GOOGLE_BIGQUERY_CUSTOM_ENDPOINT": "https://real",
        "PULUMI_ACCESS_TOKEN": "real",
        "PULUMI_BACKEND_URL": "https://real",
        "PULUMI_CONFIG_PASSPHRASE_FILE": "real",
        "AWS_SECRET_ACCESS_KEY": "real",
        "KUBECONFIG": "real",
    }
    environ = isolate(hostile, folder)
    assert environ["PATH"] == "/bin"
    assert not [name for name, value in environ.items() if "real" in value]
    assert environ["GOOGLE_APPLICATION_CREDENTIALS"] == str(folder.credentials / "deployer.json")
    assert environ["PULUMI_BACKEND_URL"].startswith("file://")
    endpoints = [value for name, value in environ.items() if name.endswith("_CUSTOM_ENDPOINT")]
    assert all(value.startswith("http://127.0.0.1:20001/") for value in endpoints)


def test_the_rehearsals_own_files_keep_neither_the_backend_nor_shared_config(tmp_path):
    (tmp_path / "Pulumi.yaml").write_text(
        "name: acme\nruntime: python\nbackend: {url: gs://real}\nconfig: {gcp:credentials: real}\n"
        "plugins: {providers: [{name: mcpfleet-build, path: ./build}]}\n"
    )
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    folder = find_folder(tmp_path, "acme-org/acme/prod")
    write_config(folder, mapped(tmp_path, server()))
    assert folder.state == tmp_path / ".mcpfleet" / "rehearsals" / "prod"
    project = yaml.safe_load((folder.config / "Pulumi.yaml").read_text())
    assert project == {
        "name": "acme",
        "runtime": "python",
        "main": str(tmp_path),
        "plugins": {"providers": [{"name": "mcpfleet-build", "path": str(tmp_path / "build")}]},
    }
    assert (folder.config / "Pulumi.prod.yaml").stat().st_mode & 0o077 == 0
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("failure", [None, KeyboardInterrupt(), SetupError("failed", "correct it"), ValueError("bug")])
def test_everything_is_removed_however_the_rehearsal_ends(tmp_path, failure):
    removed = []
    folder = CloudFolder(root=tmp_path, state=tmp_path, port=1)

    def destroy(*_, force, next_step):
        removed.append(force)

    def run():
        with removed_at_end(None, folder, None, keeps=False, destroy=destroy):
            if failure is not None:
                raise failure

    if failure is None:
        run()
    else:
        with pytest.raises(type(failure)):
            run()
    assert removed == [True]


@pytest.mark.parametrize("name", ["..", ".", "", "acme/mcp/..", "a b", "-x", "prod\n", "prod/"])
def test_a_name_that_is_no_stack_is_refused_before_a_folder_is_chosen(tmp_path, name):
    """The folder above the rehearsals is that of the project's own local cloud."""
    with pytest.raises(SetupError, match="is not the name of a stack"):
        find_folder(tmp_path, name)


def test_a_removal_that_fails_advises_to_remove_the_rehearsal_and_not_the_projects_own_local_cloud(tmp_path):
    folder = CloudFolder(root=tmp_path, state=tmp_path, port=1, stack="prod")
    advice = []

    def destroy(*_, force, next_step):
        advice.append(next_step)

    with removed_at_end(None, folder, None, keeps=False, destroy=destroy):
        pass
    assert advice == ["run mcpfleet rehearse -s prod --down."]


def test_messages_name_the_command_as_the_user_types_it(monkeypatch):
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    assert typed_command("prod") == "mcpfleet rehearse -s prod"
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert typed_command("prod") == "uv run mcpfleet rehearse -s prod"
