"""The names a fleet gives to things, as pure functions, with the cloud's limits beside them.

No random suffixes: a name computed from what the user wrote can be found again, granted on and
imported. Nothing here reads configuration; `pulumi_mcpfleet.fleet` has already refused what does not fit.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Final

SERVER_PREFIX: Final = "mcp-"
"""Every service and service account of a fleet begins with it, so a project's list shows whose they are."""

# IAM's REST reference, projects.serviceAccounts.create, on accountId: 6 to 30 characters that match
# [a-z]([-a-z0-9]*[a-z0-9]) as a whole.
ACCOUNT_ID_MIN: Final = 6
ACCOUNT_ID_MAX: Final = 30

BUCKET_NAME_MAX: Final = 63

# Cloud Run's REST reference, projects.locations.services.create, on serviceId: "must begin with letter,
# and cannot end with hyphen; must contain fewer than 50 characters".
SERVICE_NAME_MAX: Final = 49

# The account is the tighter of the two that a server's name becomes.
SERVER_NAME_MIN: Final = ACCOUNT_ID_MIN - len(SERVER_PREFIX)
SERVER_NAME_MAX: Final = min(ACCOUNT_ID_MAX, SERVICE_NAME_MAX) - len(SERVER_PREFIX)

REPOSITORY_ID: Final = "mcpfleet"
"""The Artifact Registry repository that holds every image a fleet builds, unless the fleet names another."""

MESH_ID: Final = "mcpfleet"
"""The service mesh of a fleet."""

LOAD_BALANCER_ID: Final = "mcpfleet"
"""The load balancer that all servers of a fleet share; those of one server are called as its service."""

OWN_VOLUME: Final = "fleet-"
"""The volumes that a fleet makes by itself begin with it, and no others."""

FIRST_PROXY_PORT: Final = 3000
"""Where the first server's authenticated proxy listens on a user's machine; the next takes the next."""


def service_name(server: str, own: str | None = None) -> str:
    """The Cloud Run service of *server*: *own*, where the user has named it."""
    return own or f"{SERVER_PREFIX}{server}"


def account_id(server: str) -> str:
    """The service account (the part before the @) that *server* runs as."""
    return f"{SERVER_PREFIX}{server}"


def in_region(server: str, region: str) -> str:
    """The stack's own name for what *server* has once in each region.

    Also where there is one region only: a region that comes or goes changes no other region's names.
    """
    return f"{server}-{region}"


def of_service(name: str, own: str | None) -> str:
    """The stack's own name for what is one service's alone, which would be *name* if the user had not named that *own*.

    A service of another name is another one: it is created, and requests are led to it, before the old one is deleted.
    The dot is in no name of a server or service, so no two pairs are called alike.
    """
    return f"{name}.{own}" if own else name


def grant_name(server: str, role: str, member: str) -> str:
    """The stack's own name for a grant of *role* (a word) to *member*."""
    return f"{server}-{role}-{member}"


def service_url(service: str, *, project_number: str, region: str) -> str:
    """The URL that Cloud Run gives *service*, known before it exists (Cloud Run, "Deterministic URL")."""
    return f"https://{service}-{project_number}.{region}.run.app"


def remote_repository_id(repository: str, upstream: str | None = None) -> str:
    """The Artifact Registry repository in front of a public registry: of the first, or of *upstream* behind it."""
    if upstream is None:
        return f"{repository[:56]}-remote"
    slug = re.sub(r"[^a-z0-9]+", "-", upstream)
    return f"{repository[:30]}-remote-{slug[:18]}-{hashlib.sha256(f'{repository} {upstream}'.encode()).hexdigest()[:6]}"


def source_bucket(project: str, repository: str) -> str:
    """The bucket of the sources that Cloud Build builds for *repository*; buckets are unique in the world.

    Cloud Storage, "Bucket naming": at most 63 of a-z, 0-9 and `-`, and not the word google.
    """
    whole = f"{project}-{repository}-source".replace("google", "g").replace(":", "-").replace(".", "-")
    return _short(whole, BUCKET_NAME_MAX)


def builder_account_id(repository: str) -> str:
    """The service account (the part before the @) that builds images for *repository*."""
    return _short(f"{repository}-build", ACCOUNT_ID_MAX)


def build_machine(machine: str) -> str:
    """What Cloud Build's API calls the kind of machine that gcloud calls *machine*."""
    return machine.replace("-", "_").upper()


def _short(name: str, most: int) -> str:
    """*name* with at most *most* characters; two that differ in what is cut off stay different."""
    if len(name) <= most:
        return name
    return f"{name[: most - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def through(registry_uri: str, image: str) -> str:
    """*image* of another registry, as the remote repository at *registry_uri* names it: without its own host."""
    return f"{registry_uri}/{image.partition('/')[2]}"


def account_member(email: str) -> str:
    """A service account as IAM names it among the members of a policy."""
    return f"serviceAccount:{email}"


def secret_id(secret: str) -> str:
    """The short name of a secret."""
    return secret.rpartition("/")[2]


def secret_project(secret: str, project: str) -> str:
    """The project that *secret* is in: its own where it says one, else *project*."""
    return secret.split("/")[1] if secret.startswith("projects/") else project


def iap_resource(service: str, *, project_number: str, region: str) -> str:
    """What Identity-Aware Proxy calls *service* (iap.googleapis.com, settings of a Cloud Run service)."""
    return f"projects/{project_number}/iap_web/cloud_run-{region}/services/{service}"


def iap_audience(service: str, *, project_number: str, region: str) -> str:
    """What Identity-Aware Proxy's assertions for *service* are made for.

    A service of Cloud Run (cloud.google.com/iap/docs/signed-headers-howto, "Verifying the JWT payload").
    """
    return f"/projects/{project_number}/locations/{region}/services/{service}"


def api_host(api: str) -> str:
    """The full name of a Google API, as Service Usage lists it: `run` is `run.googleapis.com`."""
    return f"{api}.googleapis.com"


def image_repository(registry_uri: str, server: str) -> str:
    """Where in the registry the images of *server* are, without tag or digest."""
    return f"{registry_uri}/{server}"


def registry_host(registry_uri: str) -> str:
    """The host (and port) of a registry address; credentials are kept by host, not by path."""
    return registry_uri.partition("/")[0]


def allowed_hosts(service: str, domain: str | None = None, *, in_mesh: str | None = None) -> tuple[str, ...]:
    """The Host headers under which *service* is reached; `*` stands for any run of characters.

    A service answers on two run.app hosts. `SERVICE-NUMBER.REGION.run.app` can be computed from the
    project's number, `SERVICE-HASH-xx.a.run.app` cannot, so both are covered by one pattern; it
    begins with the service's whole name, and Google routes a run.app host only to its own service. Over the mesh the
    host must be the service's own as well, for the same reason; what Google makes of the short name is not written
    anywhere, so that (*in_mesh*) is let in, too.
    """
    return (f"{service}-*.run.app", *((domain,) if domain else ()), *((in_mesh,) if in_mesh else ()))


def exact_hosts(
    service: str,
    domain: str | None = None,
    *,
    project_number: str,
    regions: Iterable[str],
    in_mesh: str | None = None,
) -> tuple[str, ...]:
    """The hosts of *service* that are known before it exists, for who compares exactly."""
    urls = [service_url(service, project_number=project_number, region=region) for region in regions]
    own = [url.removeprefix("https://") for url in urls]
    return (*own, *((domain,) if domain else ()), *((in_mesh,) if in_mesh else ()))


def group_name(resource: str, own: str | None) -> str:
    """A network endpoint group of the balancer or mesh *resource*: another one, if the user named its service *own*."""
    return f"{resource}-{hashlib.sha256(own.encode()).hexdigest()[:8]}" if own else resource


def mesh_name(server: str) -> str:
    """What leads to *server* in the mesh: its group, backend service, route and zone. Its domain has others."""
    return f"{SERVER_PREFIX}{server}-mesh"


def mesh_host(server: str) -> str:
    """The host under which clients in the mesh call *server*, whatever its service is called."""
    return f"{SERVER_PREFIX}{server}"


def mesh_backend(name: str, *, project: str) -> str:
    """A backend service as a route of the mesh names it."""
    return f"projects/{project}/locations/global/backendServices/{name}"


def mesh_url(server: str) -> str:
    """Where a client in the mesh calls *server*; the mesh goes on over HTTPS."""
    return f"http://{mesh_host(server)}"


def network_path(network: str, project: str) -> str:
    """A VPC network by its full path, which it has already where it is another project's."""
    return network if "/" in network else f"projects/{project}/global/networks/{network}"


def subnetwork_of(network: str, region: str) -> str:
    """The subnetwork that Cloud Run takes where only *network* is given: that of the same name."""
    return network.replace("/global/networks/", f"/regions/{region}/subnetworks/")


def connector_path(connector: str, *, project: str, region: str) -> str:
    """A Serverless VPC Access connector by its full path, which it has already where it is another project's."""
    return connector if "/" in connector else f"projects/{project}/locations/{region}/connectors/{connector}"


def secret_volume(folder: str) -> str:
    """The volume of a folder of secret files; a user cannot name one so, and no two folders share one."""
    slug = re.sub(r"[^a-z0-9]+", "-", folder.lower()).strip("-")[:40]
    return f"{OWN_VOLUME}{slug}-{hashlib.sha256(folder.encode()).hexdigest()[:6]}"


def writable_volume(folder: str) -> str:
    """The volume of a folder of the image in which the server may write."""
    return secret_volume(f"writable{folder}")


def certificate_name(server: str, domain: str) -> str:
    """The managed certificate of *domain*. Another domain has another name: its certificate comes before this goes."""
    return f"{service_name(server)}-{hashlib.sha256(domain.encode()).hexdigest()[:8]}"


def domain_id(domain: str) -> str:
    """What of the shared load balancer is *domain*'s alone: its certificate, the proof for it, its paths."""
    slug = re.sub(r"[^a-z0-9]+", "-", domain).strip("-")[:40]
    return f"{LOAD_BALANCER_ID}-{slug}-{hashlib.sha256(domain.encode()).hexdigest()[:8]}"


def mcp_url(service_url: str, path: str) -> str:
    """The URL a client is given: the endpoint itself, so that no redirect is needed."""
    return f"{service_url.rstrip('/')}{path}"


def proxy_ports(count: int) -> range:
    """The local ports of the proxies of *count* servers, in the order of their names, as Pulumi sorts its config."""
    return range(FIRST_PROXY_PORT, FIRST_PROXY_PORT + count)


def proxy_url(port: int, path: str) -> str:
    """Where a client on the user's machine reaches a server through its authenticated proxy."""
    return mcp_url(f"http://127.0.0.1:{port}", path)


def proxy_command(service: str, *, project: str, region: str, port: int) -> str:
    """The command that opens a local port to *service* and adds the caller's ID token to each request."""
    return f"gcloud run services proxy {service} --project {project} --region {region} --port {port}"


def audience(base: str, domain_path: str | None) -> str:
    """What ID tokens for the server at *base* are for.

    Servers that share a domain have audiences of their own, so that none of them can use a token that is for another.
    """
    return f"{base}{domain_path or ''}"


def domain_proxy_command(domain: str, path: str, domain_path: str | None = None, *, port: int) -> str:
    """The same for a server behind a domain, which gcloud's proxy does not know."""
    url = f"https://{domain}"
    return f"mcpfleet proxy --url {mcp_url(url, path)} --audience {audience(url, domain_path)} --port {port}"
