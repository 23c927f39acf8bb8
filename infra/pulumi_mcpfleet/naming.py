"""Pure functions that compute the names of a fleet's resources, with the cloud's limits for them.

There are no random suffixes, so users can find, grant on, and import a resource by its name. Nothing here reads
configuration; `pulumi_mcpfleet.fleet` has already refused values that don't fit.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Final

SERVER_PREFIX: Final = "mcp-"
"""The prefix of a fleet's services and service accounts, by which a project's lists show them."""

# IAM's REST reference, projects.serviceAccounts.create, on accountId: 6 to 30 characters that match
# [a-z]([-a-z0-9]*[a-z0-9]) as a whole.
ACCOUNT_ID_MIN: Final = 6
ACCOUNT_ID_MAX: Final = 30

BUCKET_NAME_MAX: Final = 63

# Cloud Run's REST reference, projects.locations.services.create, on serviceId: "must begin with letter,
# and cannot end with hyphen; must contain fewer than 50 characters".
SERVICE_NAME_MAX: Final = 49

# The account's limits are tighter than the service's.
SERVER_NAME_MIN: Final = ACCOUNT_ID_MIN - len(SERVER_PREFIX)
SERVER_NAME_MAX: Final = min(ACCOUNT_ID_MAX, SERVICE_NAME_MAX) - len(SERVER_PREFIX)

REPOSITORY_ID: Final = "mcpfleet"
"""The Artifact Registry repository that holds every image a fleet builds, unless the fleet names another."""

MESH_ID: Final = "mcpfleet"
"""The service mesh of a fleet."""

LOAD_BALANCER_ID: Final = "mcpfleet"
"""The load balancer that all servers of a fleet share. One of a single server has the name of its service."""

FLEET_VOLUME_PREFIX: Final = "fleet-"
"""The prefix of volumes that a fleet creates by itself. Users' volumes can't have it."""

FIRST_PROXY_PORT: Final = 3000
"""The local port of the first server's authenticated proxy. The next servers have the next ports."""


def service_name(server: str, custom_name: str | None = None) -> str:
    """Return the name of the Cloud Run service of *server*: *custom_name* if the user has set one."""
    return custom_name or f"{SERVER_PREFIX}{server}"


def account_id(server: str) -> str:
    """Return the id (the part before the @) of the service account of *server*."""
    return f"{SERVER_PREFIX}{server}"


def regional_name(server: str, region: str) -> str:
    """Return the Pulumi name of a resource that *server* has in each region.

    The region is in the name even if there is only one, so that adding or removing a region renames nothing.
    """
    return f"{server}-{region}"


def per_service_name(name: str, custom_name: str | None) -> str:
    """Return the Pulumi name of a resource of one service: *name*, with the service's *custom_name* if it has one.

    A service with another name is another resource: it is created and gets requests before the old one is deleted.
    Names of servers and services have no dots, so different pairs have different names.
    """
    return f"{name}.{custom_name}" if custom_name else name


def grant_name(server: str, role: str, member: str) -> str:
    """Return the Pulumi name of a grant of *role* (a short word) to *member*."""
    return f"{server}-{role}-{member}"


def service_url(service: str, *, project_number: str, region: str) -> str:
    """Return the URL of *service*, which is known before the service exists (Cloud Run, "Deterministic URL")."""
    return f"https://{service}-{project_number}.{region}.run.app"


def remote_repository_id(repository: str, upstream: str | None = None) -> str:
    """Return the id of the remote repository for the first public registry, or for *upstream*."""
    if upstream is None:
        return f"{repository[:56]}-remote"
    slug = re.sub(r"[^a-z0-9]+", "-", upstream)
    return f"{repository[:30]}-remote-{slug[:18]}-{hashlib.sha256(f'{repository} {upstream}'.encode()).hexdigest()[:6]}"


def source_bucket(project: str, repository: str) -> str:
    """Return the bucket for the sources of Cloud Build builds for *repository*. Its name must be globally unique.

    Cloud Storage, "Bucket naming": at most 63 of a-z, 0-9 and `-`, and not the word google.
    """
    name = f"{project}-{repository}-source".replace("google", "g").replace(":", "-").replace(".", "-")
    return _shorten(name, BUCKET_NAME_MAX)


def login_name(server: str) -> str:
    """Return the name of what belongs to the container of `access: login` in front of *server*."""
    return f"{server}-login"


def login_bucket(project: str, place: str) -> str:
    """Return the bucket for the logins of a server; *place*: its name in the stack. It must be globally unique."""
    name = f"{project}-mcp-{place}-logins".replace("google", "g").replace(":", "-").replace(".", "-")
    return _shorten(name, BUCKET_NAME_MAX)


def builder_account_id(repository: str) -> str:
    """Return the id (the part before the @) of the service account that builds images for *repository*."""
    return _shorten(f"{repository}-build", ACCOUNT_ID_MAX)


def build_machine(machine: str) -> str:
    """Convert gcloud's name of a machine type to that of Cloud Build's API."""
    return machine.replace("-", "_").upper()


def _shorten(name: str, max_length: int) -> str:
    """Shorten *name* to at most *max_length* characters; a hash keeps shortened names distinct."""
    if len(name) <= max_length:
        return name
    return f"{name[: max_length - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def remote_image(registry_uri: str, image: str) -> str:
    """Return the name of another registry's *image* in the remote repository at *registry_uri*."""
    return f"{registry_uri}/{image.partition('/')[2]}"


def account_member(email: str) -> str:
    """Return the member of IAM policies for a service account."""
    return f"serviceAccount:{email}"


def secret_id(secret: str) -> str:
    """Return the short name of a secret."""
    return secret.rpartition("/")[2]


def secret_project(secret: str, project: str) -> str:
    """Return the project of *secret*: that in its name if it has one, else *project*."""
    return secret.split("/")[1] if secret.startswith("projects/") else project


def iap_resource(service: str, *, project_number: str, region: str) -> str:
    """Return Identity-Aware Proxy's name of *service* (iap.googleapis.com, settings of a Cloud Run service)."""
    return f"projects/{project_number}/iap_web/cloud_run-{region}/services/{service}"


def iap_audience(service: str, *, project_number: str, region: str) -> str:
    """Return the audience of Identity-Aware Proxy's assertions for *service*.

    The format is that for Cloud Run (cloud.google.com/iap/docs/signed-headers-howto, "Verifying the JWT payload").
    """
    return f"/projects/{project_number}/locations/{region}/services/{service}"


def api_host(api: str) -> str:
    """Return the full name of a Google API as in Service Usage: `run` is `run.googleapis.com`."""
    return f"{api}.googleapis.com"


def image_repository(registry_uri: str, server: str) -> str:
    """Return the name of the images of *server* in the registry, without tag or digest."""
    return f"{registry_uri}/{server}"


def registry_host(registry_uri: str) -> str:
    """Return the host (and port) of a registry address, because credentials are stored by host."""
    return registry_uri.partition("/")[0]


def allowed_hosts(service: str, domain: str | None = None, *, in_mesh: str | None = None) -> tuple[str, ...]:
    """Return the allowed Host headers of *service*; `*` matches any characters.

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
    """Return the name of the mesh's group, backend service, route and zone for *server*. Its domain has others."""
    return f"{SERVER_PREFIX}{server}-mesh"


def mesh_host(server: str) -> str:
    """Return the host by which clients in the mesh call *server*, whatever the name of its service."""
    return f"{SERVER_PREFIX}{server}"


def mesh_backend(name: str, *, project: str) -> str:
    """Return the full path of a backend service, for a route of the mesh."""
    return f"projects/{project}/locations/global/backendServices/{name}"


def mesh_url(server: str) -> str:
    """Return the URL by which a client in the mesh calls *server*; the mesh itself uses HTTPS."""
    return f"http://{mesh_host(server)}"


def network_path(network: str, project: str) -> str:
    """Return the full path of a VPC network. A network of another project is already a full path."""
    return network if "/" in network else f"projects/{project}/global/networks/{network}"


def subnetwork_of(network: str, region: str) -> str:
    """Return the subnetwork that Cloud Run uses if only *network* is set: the one with the same name."""
    return network.replace("/global/networks/", f"/regions/{region}/subnetworks/")


def connector_path(connector: str, *, project: str, region: str) -> str:
    """Return the full path of a Serverless VPC Access connector. One of another project is already a full path."""
    return connector if "/" in connector else f"projects/{project}/locations/{region}/connectors/{connector}"


def secret_volume(folder: str) -> str:
    """Return the volume of a folder of secret files. Users' volumes can't have this name, nor can other folders'."""
    slug = re.sub(r"[^a-z0-9]+", "-", folder.lower()).strip("-")[:40]
    return f"{FLEET_VOLUME_PREFIX}{slug}-{hashlib.sha256(folder.encode()).hexdigest()[:6]}"


def writable_volume(folder: str) -> str:
    """Return the volume of a folder of the image in which the server can write."""
    return secret_volume(f"writable{folder}")


def certificate_name(server: str, domain: str) -> str:
    """Return the name of the managed certificate of *domain*.

    Another domain has another name, so that its certificate is created before the old one is deleted.
    """
    return f"{service_name(server)}-{hashlib.sha256(domain.encode()).hexdigest()[:8]}"


def domain_id(domain: str) -> str:
    """Return the name of the shared load balancer's resources for *domain*: certificate, authorization and paths."""
    slug = re.sub(r"[^a-z0-9]+", "-", domain).strip("-")[:40]
    return f"{LOAD_BALANCER_ID}-{slug}-{hashlib.sha256(domain.encode()).hexdigest()[:8]}"


def mcp_url(service_url: str, path: str) -> str:
    """Return the URL of the MCP endpoint for clients, which needs no redirect."""
    return f"{service_url.rstrip('/')}{path}"


def proxy_ports(count: int) -> range:
    """Return the local ports of the proxies of *count* servers, in the order of their names."""
    return range(FIRST_PROXY_PORT, FIRST_PROXY_PORT + count)


def proxy_url(port: int, path: str) -> str:
    """Return the URL of a server's endpoint through its authenticated proxy on the user's machine."""
    return mcp_url(f"http://127.0.0.1:{port}", path)


def proxy_command(service: str, *, project: str, region: str, port: int) -> str:
    """Return the command that opens a local port to *service*, and adds the caller's ID token to each request."""
    return f"gcloud run services proxy {service} --project {project} --region {region} --port {port}"


def audience(base: str, domain_path: str | None) -> str:
    """Return the audience of ID tokens for the server at the URL *base*.

    Servers that share a domain have different audiences, so that none of them can use a token for another one.
    """
    return f"{base}{domain_path or ''}"


def domain_proxy_command(domain: str, path: str, domain_path: str | None = None, *, port: int) -> str:
    """Return the command for a server behind a domain, which gcloud's proxy doesn't support."""
    url = f"https://{domain}"
    return f"mcpfleet proxy --url {mcp_url(url, path)} --audience {audience(url, domain_path)} --port {port}"
