"""The exports of `./dev env`: complete for what the local cloud serves, and safe in a shell."""

import re
import shlex
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_local_cloud.app import create_app
from mcpfleet_local_cloud.cloud import Cloud
from mcpfleet_local_cloud.commands import background, stack
from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.environment import UNIVERSE, exports, format_exports
from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.phases import Phases
from mcpfleet_local_cloud.state.folder import Settings

PLACE = CloudFolder(root=Paths.from_environ({}).root, state=Paths.from_environ({}).root / ".mcpfleet")
ENDPOINT = re.compile(r"GOOGLE_[A-Z0-9_]+_CUSTOM_ENDPOINT")
# Not an API of Google's that the provider is configured for: tokens, the registry, the cloud's own.
OTHERS = {"oauth2", "sts", "v2", "_local", "upload", "download"}


@pytest.fixture
def served(tmp_path):
    """The first words of the paths that the local cloud serves, with the versions below each."""
    cloud = Cloud(Settings(state=tmp_path), data_plane=object())
    try:
        paths = [route.path for route in create_app(cloud, lambda _line: None).routes]
    finally:
        cloud.store.close()
    return {tuple(path.split("/")[1:3]) for path in paths if path.split("/")[1] not in OTHERS and path.count("/") > 1}


def test_every_api_that_the_local_cloud_serves_has_an_endpoint_and_every_endpoint_is_served(served):
    variables = exports(PLACE, None)
    set_here = {
        tuple(urlsplit(value).path.split("/")[1:3]) for key, value in variables.items() if ENDPOINT.fullmatch(key)
    }
    assert set_here <= served
    assert {api for api, _ in served} == {api for api, _ in set_here}


def test_every_endpoint_has_the_clouds_port_and_the_providers_format():
    variables = exports(CloudFolder(root=PLACE.root, state=PLACE.state, port=9123), None)
    endpoints = [value for key, value in variables.items() if ENDPOINT.fullmatch(key)]
    assert len(endpoints) >= 8
    for value in endpoints:
        assert re.fullmatch(r"http://127\.0\.0\.1:9123/.*/[^/]+/", value)  # docs/google-apis.md 2.2


def test_the_users_google_credentials_are_not_used_for_the_local_cloud():
    """Each of these the provider prefers to the key file (provider.go of the Terraform provider)."""
    variables = exports(PLACE, None)
    for name in ("GOOGLE_CREDENTIALS", "GOOGLE_CLOUD_KEYFILE_JSON", "GCLOUD_KEYFILE_JSON", "GOOGLE_OAUTH_ACCESS_TOKEN"):
        assert variables[name] == "", name
    assert variables["GOOGLE_IMPERSONATE_SERVICE_ACCOUNT"] == ""
    assert variables["GOOGLE_APPLICATION_CREDENTIALS"] == str(PLACE.credentials / "deployer.json")


def test_attached_plugins_are_exported_only_if_there_are_any():
    assert exports(PLACE, "gcp:1,docker-build:2")["PULUMI_DEBUG_PROVIDERS"] == "gcp:1,docker-build:2"
    assert "PULUMI_DEBUG_PROVIDERS" not in exports(PLACE, None)


def test_with_real_plugins_the_emulated_ones_are_unset_in_the_shell(monkeypatch, capsys):
    monkeypatch.setattr(background, "find_running", lambda _folder, name: {"pid": 1} if name == "cloud" else None)
    monkeypatch.setattr(background, "ensure_plugins", lambda *_, **__: pytest.fail("a plugin was started"))
    stack.env(Phases(), real_plugins=True)
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == "unset PULUMI_DEBUG_PROVIDERS PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION"
    assert not [line for line in lines if line.startswith("export PULUMI_DEBUG_PROVIDERS")]
    assert [line for line in lines if line.startswith("export GOOGLE_CLOUD_RUN_V2_CUSTOM_ENDPOINT=http://127.0.0.1")]


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1))
def test_the_state_url_of_any_folder_leads_back_to_it(name):
    state = PLACE.root / name
    url = exports(CloudFolder(root=PLACE.root, state=state), None)["PULUMI_BACKEND_URL"]
    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("file", "", "", "")
    assert unquote(parts.path) == f"{state}/pulumi"


@given(
    st.dictionaries(
        st.from_regex(r"[A-Z_][A-Z0-9_]*", fullmatch=True),
        st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0")),
    )
)
def test_a_shell_reads_the_exported_values_unchanged(variables):
    words = shlex.split(format_exports(variables))
    assert [word for word in words if word == "export"] == ["export"] * len(variables)
    assert dict(word.split("=", 1) for word in words if word != "export") == variables


@pytest.mark.parametrize("name", ["local", "showcase"])
def test_a_local_stack_has_the_local_universe_and_its_own_salt(name):
    """Without the salt Pulumi would write one into the file, which git would then show as changed."""
    stack = yaml.safe_load((PLACE.root / f"Pulumi.{name}.yaml").read_text(encoding="utf-8"))
    settings = Settings(state=PLACE.state)
    assert stack["config"]["gcp:universeDomain"] == settings.universe == UNIVERSE
    assert stack["config"]["gcp:project"] == settings.project
    assert stack["encryptionsalt"].startswith("v1:")
