"""Every key of a server that has an effect on one machine, deployed by the real engine.

What is asserted is seen in the container or at its ingress, not in the request.
"""

import base64
import json

import httpx2
import pytest
import yaml
from google.auth.transport.requests import AuthorizedSession
from google.oauth2 import service_account

pytestmark = pytest.mark.integration

TOOLBOX = "docker.io/mcpfleet-examples/toolbox:1"
ADA = {"iam": {"invokers": ["user:ada@mcpfleet.test"]}}
LISTEN = ["--host", "0.0.0.0", "--port"]  # noqa: S104 - in a container
PUBLIC = {"public": {"reason": "a test of what anybody may call"}}

SERVERS = {
    "full": {
        "source": {"image": TOOLBOX, "port": 5000, "args": [*LISTEN, "5000"]},
        "access": ADA,
        "env": {"PLAIN": "seen"},
        "secrets": {
            "DB_PASSWORD": {"secret": "db", "version": "1"},
            "/run/keys/key.json": {"secret": "key", "version": "latest"},
        },
        "volumes": {"cache": {"memory": "16Mi", "mount": "/cache"}},
        "sidecars": {
            "beside": {
                "image": TOOLBOX,
                "args": [*LISTEN, "6000"],
                "env": {"ROLE": "beside"},
                "secrets": {"TOKEN": {"secret": "db", "version": "2"}},
                "mounts": {"cache": "/shared"},
                "startup": {"port": 6000, "period": 1, "failures": 60},
                "memory": "256Mi",
            }
        },
        "depends_on": ["beside"],
        "cpu": 1,
        "memory": "256Mi",
        "min_instances": 2,
        "max_instances": 3,
        "roles": ["roles/logging.viewer"],
        "timeout": 2,
        "audiences": ["https://toolbox.acme.dev"],
        "description": "All keys at once",
    },
    "anybody": {"source": {"image": TOOLBOX, "port": 5000, "args": [*LISTEN, "5000"]}, "access": PUBLIC},
    "inside": {
        "source": {"image": TOOLBOX, "port": 5000, "args": [*LISTEN, "5000"]},
        "access": {"iam": {"invokers": ["domain:mcpfleet.test"]}},
        "ingress": "internal",
    },
}


class Deployed:
    """A checkout whose stack `local` has a fleet of the test's own."""

    def __init__(self, checkout, engine):
        self.checkout = checkout
        self.engine = engine

    def write(self, servers, **fleet):
        file = self.checkout.place.root / "Pulumi.local.yaml"
        stack = yaml.safe_load(file.read_text())
        stack["config"]["mcpfleet:fleet"] = {"region": "europe-west1", "servers": servers, **fleet}
        file.write_text(yaml.safe_dump(stack))

    def google(self):
        """The local cloud's APIs, as the deployer."""
        key = str(self.checkout.place.credentials / "deployer.json")
        scopes = ["https://www.googleapis.com/auth/cloud-platform"]
        return AuthorizedSession(service_account.Credentials.from_service_account_file(key, scopes=scopes))

    def secret(self, name, *values):
        """A secret with a version for each value, as a person makes it before the deployment."""
        base = f"{self.checkout.place.url}/secretmanager/v1/projects/mcpfleet-local/secrets"
        google = self.google()
        made = google.post(f"{base}?secretId={name}", json={"replication": {"automatic": {}}})
        assert made.status_code == 200, made.text
        for value in values:
            data = base64.b64encode(value.encode()).decode()
            assert google.post(f"{base}/{name}:addVersion", json={"payload": {"data": data}}).status_code == 200

    def containers(self, server, ending=None):
        """The containers of a server's instances; those of one container's name in the revision, if given."""
        found = []
        for container in self.checkout.containers(self.engine):
            if f"mcp-{server}-" not in container.name or container.status != "running":
                continue
            environment = dict(item.split("=", 1) for item in container.attrs["Config"]["Env"])
            if ending is None or (ending == "server") == ("K_SERVICE" in environment and "PORT" in environment):
                found.append((container, environment))
        return found

    def run(self, container, command):
        code, output = container.exec_run(["sh", "-c", command])
        assert code == 0, output
        return output.decode()

    def status(self, server, who=None, audience=None):
        """Return the status of a tools/list; 200 comes from the container."""
        target = self.checkout.servers[server]
        auth = None if who is None else self.checkout.who(who, audience or target["audience"])
        question = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        headers = {"accept": "application/json, text/event-stream"}
        answer = httpx2.post(target["mcp_url"], json=question, headers=headers, auth=auth, timeout=30, trust_env=False)
        return answer.status_code


@pytest.fixture(scope="module")
def deployed(make_checkout, engine):
    """The fleet above, deployed once; its secrets were there before."""
    found = Deployed(make_checkout("keys"), engine)
    found.write({"anybody": SERVERS["anybody"]})
    found.checkout.ok("up")
    google = found.google()
    enable = f"{found.checkout.place.url}/serviceusage/v1/projects/mcpfleet-local/services/secretmanager.googleapis.com"
    assert google.post(f"{enable}:enable", json={}).status_code == 200
    found.secret("db", "first", "second")
    found.secret("key", '{"k": 1}')
    found.write(SERVERS, labels={"team": "test"})
    found.output = found.checkout.ok("up")
    return found


def test_a_second_up_with_every_key_set_changes_nothing(deployed):
    assert "No changes" in deployed.checkout.ok("up")


def test_a_container_reads_its_secrets_from_a_variable_and_from_a_file(deployed):
    container, environment = deployed.containers("full", "server")[0]
    assert (environment["PLAIN"], environment["DB_PASSWORD"]) == ("seen", "first")
    assert json.loads(deployed.run(container, "cat /run/keys/key.json")) == {"k": 1}


def test_a_secrets_value_is_neither_in_the_state_nor_in_the_output_of_up(deployed):
    state = "".join(path.read_text() for path in (deployed.checkout.place.state / "pulumi").rglob("*.json"))
    assert "toolbox" in state
    assert "second" not in state.replace("seconds", "").replace("Seconds", "")
    assert '{"k": 1}' not in state
    assert '"k": 1' not in deployed.output


def test_the_base_url_is_the_services_actual_url(deployed):
    _, environment = deployed.containers("full", "server")[0]
    path = "run/v2/projects/mcpfleet-local/locations/europe-west1/services/mcp-full"
    service = deployed.google().get(f"{deployed.checkout.place.url}/{path}").json()
    assert environment["MCPFLEET_BASE_URL"] in service["urls"]
    assert environment["MCPFLEET_AUDIENCE"] == f"{environment['MCPFLEET_BASE_URL']},https://toolbox.acme.dev"


def test_a_memory_volume_is_shared_by_an_instances_containers_and_limited(deployed):
    server = deployed.containers("full", "server")
    beside = deployed.containers("full", "beside")
    assert len(server) == len(beside) == 2, "two instances, of two containers each"
    deployed.run(server[0][0], "echo hello > /cache/note")
    notes = [deployed.run(item, "cat /shared/note 2>/dev/null || true").strip() for item, _ in beside]
    assert sorted(notes) == ["", "hello"], "its own instance's sidecar sees it, the other instance's does not"
    size = int(deployed.run(server[0][0], "df -k /cache | tail -1 | awk '{print $2}'"))
    assert size == 16 * 1024


def test_a_sidecar_serves_on_localhost_with_its_own_environment_and_no_port(deployed):
    (_, environment), *_ = deployed.containers("full", "beside")
    assert (environment["ROLE"], environment["TOKEN"]) == ("beside", "second")
    assert "PORT" not in environment
    server, _ = deployed.containers("full", "server")[0]
    probe = "import socket; socket.create_connection(('127.0.0.1', 6000), 5); print('there')"
    assert deployed.run(server, f'python3 -c "{probe}" || python -c "{probe}"').strip() == "there"


def test_cpu_and_memory_become_the_containers_limits(deployed):
    limits = {
        kind: item.attrs["HostConfig"]["Memory"] // 2**20
        for kind in ("server", "beside")
        for item, _ in deployed.containers("full", kind)
    }
    assert limits == {"server": 256, "beside": 256}


def test_two_minimum_instances_run_without_requests(deployed):
    assert len(deployed.containers("full", "server")) == 2
    assert len(deployed.containers("anybody")) == 1


def test_a_configured_role_is_granted_to_the_servers_account_on_the_project(deployed):
    path = "crm/v1/projects/mcpfleet-local:getIamPolicy"
    policy = deployed.google().post(f"{deployed.checkout.place.url}/{path}", json={}).json()
    (members,) = [item["members"] for item in policy["bindings"] if item["role"] == "roles/logging.viewer"]
    deployer = "serviceAccount:deployer@mcpfleet-local.iam.gserviceaccount.com"  # reads the logs of builds
    assert set(members) - {deployer} == {"serviceAccount:mcp-full@mcpfleet-local.iam.gserviceaccount.com"}


def test_a_custom_audience_is_accepted_and_any_other_refused(deployed):
    # A person's token is for gcloud's client whatever is asked for; the deployer's is for what it asked, and its role
    # lets it call.
    assert deployed.status("full", who="deployer", audience="https://other.acme.dev") == 401
    assert deployed.status("full", who="deployer", audience="https://toolbox.acme.dev") == 200


def test_a_public_server_accepts_calls_without_a_token(deployed):
    assert deployed.status("anybody") == 200


def test_an_internal_server_answers_404_outside_even_with_a_valid_token(deployed):
    assert deployed.status("inside", who="ada") == 404


def test_a_missing_secret_stops_the_update_with_googles_error_message(deployed):
    broken = {**SERVERS["anybody"], "secrets": {"KEY": {"secret": "nosuch", "version": "1"}}}
    deployed.write({**SERVERS, "anybody": broken}, labels={"team": "test"})
    code, output = deployed.checkout.dev("up")
    assert code == 1
    assert "nosuch" in output
    assert deployed.status("anybody") == 200, "the old revision serves on"
    deployed.write(SERVERS, labels={"team": "test"})
    deployed.checkout.ok("up")


def test_removing_keys_removes_their_effects(deployed):
    plain = {**SERVERS["anybody"], "access": ADA}
    deployed.write({"full": plain, "anybody": plain})
    deployed.checkout.ok("up")
    assert deployed.status("anybody") == 403, "public no longer"
    assert deployed.status("full", who="ada") == 200
    (container, environment), *others = deployed.containers("full")
    assert others == [], "neither a sidecar nor a second instance"
    assert {"PLAIN", "DB_PASSWORD"} & set(environment) == set()
    assert "inside" not in deployed.checkout.servers
    assert container.attrs["HostConfig"]["Memory"] == 512 * 2**20
