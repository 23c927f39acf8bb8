"""Tests of calls between services: names, certificates, and the routing of a container's call."""

import ssl
from pathlib import Path

import pytest

from mcpfleet_local_cloud.data_plane.contract import ServiceEndpoint
from mcpfleet_local_cloud.front_end.balancer import Balancer
from mcpfleet_local_cloud.front_end.certificates import CertificateAuthority
from mcpfleet_local_cloud.front_end.container_router import ContainerRouter
from mcpfleet_local_cloud.identity.metadata import Workload
from mcpfleet_local_cloud.state.folder import Settings

HOST = "hello-481516234200.europe-west1.run.app"
SERVICE = "projects/mcpfleet-local/locations/europe-west1/services/hello"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ca")
    return CertificateAuthority(folder)


def handshake(server_context, trusted, host):
    """The certificate that a client which trusts the file *trusted* gets for *host*, in memory."""
    client_context = ssl.create_default_context(cafile=str(trusted))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=host)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    done = set()
    for _ in range(10):
        for name, side in (("client", client), ("server", server)):
            if name not in done:
                try:
                    side.do_handshake()
                    done.add(name)
                except ssl.SSLWantReadError:
                    pass
    assert done == {"client", "server"}
    return client.getpeercert()


def test_a_host_gets_its_own_certificate_that_the_bundle_trusts(authority):
    context = authority.create_tls_context(lambda host: host in {HOST, "mcp.acme.dev"})
    for host in (HOST, "mcp.acme.dev"):
        assert handshake(context, authority.write_bundle(), host)["subjectAltName"] == (("DNS", host),)


def test_an_unknown_host_gets_no_certificate(authority):
    with pytest.raises(ssl.SSLError):
        handshake(authority.create_tls_context(lambda host: False), authority.write_bundle(), HOST)


def test_the_certificate_authority_persists_with_a_private_key_file(authority):
    again = CertificateAuthority(authority.certificate.parent)
    assert handshake(again.create_tls_context(lambda host: True), authority.certificate, HOST)
    assert (authority.certificate.parent / "ca.key").stat().st_mode & 0o777 == 0o600
    assert authority.write_bundle().stat().st_mode & 0o777 == 0o644
    assert b"PRIVATE" not in authority.write_bundle().read_bytes()


class NoBalancer(Balancer):
    def __init__(self):
        pass

    def has_certificate(self, host):
        return host == "mcp.acme.dev"

    def route_by_host(self, host, path, query):
        return None


@pytest.fixture
def entrance():
    door = ServiceEndpoint(service=SERVICE, audiences=frozenset(), hosts=frozenset({HOST}))
    callers = {
        "10.0.0.2": Workload(service_account="a", project="p", region="r", instance_id="1", is_internal=True),
        "10.0.0.3": Workload(service_account="a", project="p", region="r", instance_id="2"),
    }
    settings = Settings(state=Path("/nowhere"))
    return ContainerRouter({SERVICE: door}.get, NoBalancer(), callers.get, settings)


def scope(host, client="10.0.0.2"):
    return {"headers": [(b"host", host.encode())], "client": (client, 1), "path": "/", "query_string": b""}


@pytest.mark.parametrize(("client", "inside"), [("10.0.0.2", True), ("10.0.0.3", False), ("10.0.0.9", False)])
def test_a_call_by_name_reaches_the_service_and_is_internal_like_its_caller(entrance, client, inside):
    for host in (HOST, f"{HOST}:443"):
        arrival = entrance(scope(host, client))
        assert arrival.endpoint.service == SERVICE
        assert arrival.is_internal == inside


def test_names_of_other_projects_and_unknown_names_do_not_resolve(entrance):
    assert entrance.resolves(HOST)
    assert entrance.resolves("none-481516234200.us-east1.run.app")
    assert entrance.resolves("mcp.acme.dev")
    assert entrance.resolves("www.gstatic.com"), "the keys of Identity-Aware Proxy are looked for there"
    for host in (
        "hello-1.europe-west1.run.app",
        "run.app",
        "example.org",
        "fonts.gstatic.com",
        "gstatic.com",
        f"x.{HOST}",
    ):
        assert not entrance.resolves(host)
    assert entrance(scope("none-481516234200.us-east1.run.app")).endpoint is None
    assert entrance(scope("example.org")).endpoint is None
