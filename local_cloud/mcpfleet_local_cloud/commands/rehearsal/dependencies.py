"""Creates in the local cloud what a fleet uses and does not create: secrets, networks, service accounts, buckets."""

import os
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import httpx2
from docker.errors import APIError, DockerException

from mcpfleet.errors import McpfleetError
from mcpfleet.google_sources import google_api
from mcpfleet.inert import inert
from mcpfleet.secret_manager import SecretLocation, SecretManager, SecretValue
from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.environment import UNIVERSE, exports
from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.commands.rehearsal.mapping import PROJECT, Rehearsal, dummy_value, skip_key
from mcpfleet_local_cloud.data_plane.engine import error_text
from pulumi_mcpfleet.components.prerequisites import NETWORK, SUBNETWORK, find_prerequisites
from pulumi_mcpfleet.fleet import ExistingImage, Fleet, OauthAccess

Api = Callable[..., tuple[int, Mapping[str, Any]]]

_EXISTS: Final = 409
_ISSUER_SECONDS: Final = 5.0
"""Seconds that an authorization server gets to answer."""
_GOOGLE_REGISTRIES: Final = ("gcr.io", ".gcr.io", ".pkg.dev")


def create_dependencies(folder: CloudFolder, rehearsal: Rehearsal, values: Mapping[str, str]) -> None:
    """Create everything that the fleet uses and does not create.

    Args:
        folder: The rehearsal's local cloud.
        rehearsal: The mapped config.
        values: The values of secrets, by their names in the config. Every other secret gets a dummy.

    Raises:
        SetupError: The local cloud refused something.
    """
    environ = exports(folder, None)
    api = google_api(environ, folder.credentials / "deployer.json")
    try:
        _store_secrets(SecretManager(api, SecretLocation(PROJECT, UNIVERSE), environ), folder, api, rehearsal, values)
    except McpfleetError as error:
        raise SetupError(str(error), f"read its log: {folder.log('cloud')}.") from None
    post = _Poster(folder, api)
    if rehearsal.service_accounts:
        post.enable("iam")
    for account in rehearsal.service_accounts:
        name = account.partition("@")[0]
        post(f"iam/v1/projects/{PROJECT}/serviceAccounts", {"accountId": name, "serviceAccount": {}})
    if rehearsal.buckets:
        post.enable("storage")
    for bucket in rehearsal.buckets:
        post(f"storage/v1/b?project={PROJECT}", {"name": bucket, "location": "EU"})
    _create_networks(post, rehearsal.fleet)


def _store_secrets(
    manager: SecretManager, folder: CloudFolder, api: Api, rehearsal: Rehearsal, values: Mapping[str, str]
) -> None:
    for secret in rehearsal.secrets:
        url = f"{folder.url}/secretmanager/v1/projects/{PROJECT}/secrets/{secret.local_name}/versions"
        status, body = api("GET", url)
        existing = len(body.get("versions") or ()) if status == 200 else 0
        value = SecretValue(values.get(secret.name, dummy_value(secret.name)).encode())
        for _ in range(existing, secret.versions):
            manager.add_version(secret.local_name, value)


def _create_networks(post: "_Poster", fleet: Fleet) -> None:
    wanted = [need for need in find_prerequisites(fleet, PROJECT) if need.function in {NETWORK, SUBNETWORK}]
    if not wanted:
        return
    post.enable("compute")
    networks = [str(need.arguments["name"]) for need in wanted if need.function == NETWORK]
    for network in networks:
        if network != "default":  # each project has it
            post(
                f"compute/v1/projects/{PROJECT}/global/networks",
                {"name": network, "autoCreateSubnetworks": False},
            )
    parent = f"projects/{PROJECT}/global/networks/{networks[0] if networks else 'default'}"
    for index, need in enumerate(need for need in wanted if need.function == SUBNETWORK):
        name, region = str(need.arguments["name"]), str(need.arguments["region"])
        if name == "default":
            continue
        network = f"projects/{PROJECT}/global/networks/{name}" if name in networks else parent
        post(
            f"compute/v1/projects/{PROJECT}/regions/{region}/subnetworks",
            {"name": name, "network": network, "ipCidrRange": f"10.{index % 200}.0.0/20"},
        )


class _Poster:
    """Creates resources as the deployer; one that exists is left as it is."""

    def __init__(self, folder: CloudFolder, api: Api) -> None:
        self._folder = folder
        self._api = api

    def enable(self, api: str) -> None:
        """Enable an API of the project, such as `iam`. A project begins with few of them, as on Google."""
        self(f"serviceusage/v1/projects/{PROJECT}/services/{api}.googleapis.com:enable", {})

    def __call__(self, path: str, body: Mapping[str, Any]) -> None:
        status, response = self._api("POST", f"{self._folder.url}/{path}", body)
        if status not in {200, _EXISTS}:
            error: Any = response.get("error")
            message: Any = cast("dict[str, Any]", error).get("message") if isinstance(error, dict) else error
            raise SetupError(
                f"The local cloud refused POST {path}: {inert(str(message or status))}",
                f"read its log: {self._folder.log('cloud')}.",
            )


def fetch_images(docker: Any, fleet: Fleet) -> list[tuple[str, str]]:
    """Pull the images that the fleet names and Docker does not have, without any credentials.

    Images in Google's registries are not pulled: a rehearsal contacts no service of Google.

    Args:
        docker: The client of the Docker engine.
        fleet: The fleet.

    Returns:
        The key and the reason of each image that can't be used.
    """
    failures: list[tuple[str, str]] = []
    for key, image in _images(fleet):
        if _has(docker, image):
            continue
        host = image.partition("/")[0]
        if host.endswith(_GOOGLE_REGISTRIES):
            failures.append((key, f"{image} is in a registry of Google, and a rehearsal contacts none"))
            continue
        repository, separator, digest = image.partition("@")
        name, colon, tag = repository.rpartition(":")
        if not colon or "/" in tag:
            name, tag = repository, "latest"
        try:
            # An empty login: without it, docker-py looks for one in the user's Docker config.
            docker.images.pull(name, tag=digest if separator else tag, auth_config={"username": "", "password": ""})
        except (DockerException, OSError) as error:
            reason = error_text(error) if isinstance(error, APIError) else str(error)
            failures.append((key, f"{image} can't be pulled: {inert(reason)[:200]}"))
    return failures


def find_silent_issuers(fleet: Fleet, get: Callable[..., Any] = httpx2.get) -> dict[str, str]:
    """Ask the authorization servers of the fleet whether they answer: without its own, a server refuses every call.

    Google's are not asked.

    Args:
        fleet: The fleet.
        get: Sends a GET request, as `httpx2.get`.

    Returns:
        The issuers that are not used, by the names of their servers.
    """
    silent: dict[str, str] = {}
    for name, spec in fleet.servers.items():
        if not isinstance(spec.access, OauthAccess):
            continue
        issuer = spec.access.oauth.issuer
        host = f".{httpx2.URL(issuer).host}"
        try:
            if host.endswith((".google.com", ".googleapis.com")):
                silent[name] = issuer
            else:
                # Any response will do: the server itself looks for the metadata (RFC 8414).
                get(f"{issuer.rstrip('/')}/.well-known/openid-configuration", timeout=_ISSUER_SECONDS)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError):
            silent[name] = issuer
    return silent


def _images(fleet: Fleet) -> list[tuple[str, str]]:
    images: dict[tuple[str, str], None] = {}
    for section, workloads in (("servers", fleet.servers), ("clients", fleet.clients)):
        for name, spec in workloads.items():
            if isinstance(spec.source, ExistingImage):
                images[(skip_key((section, name)), spec.source.image)] = None
            for sidecar, container in spec.all_sidecars.items():
                images[(skip_key((section, name, "sidecars", sidecar)), container.image)] = None
    return [*images]


def _has(docker: Any, image: str) -> bool:
    try:
        docker.images.get(image.removeprefix("docker.io/").removeprefix("library/"))
    except (DockerException, OSError):
        return False
    return True


def isolate(environ: Mapping[str, str], folder: CloudFolder) -> dict[str, str]:
    """Return *environ* without anything by which a program finds the user's clouds, logins or Pulumi plugins.

    Args:
        environ: The environment of the command.
        folder: The rehearsal's local cloud.
    """
    dropped = ("GOOGLE_", "GCLOUD_", "CLOUDSDK_", "GCE_", "PULUMI_", "AWS_", "AZURE_", "ARM_", "CLOUDFLARE_", "KUBE")
    kept = {name: value for name, value in environ.items() if not name.startswith(dropped)}
    empty = folder.state / "empty"
    return {
        **kept,
        **exports(folder, None),
        # Plugins of other clouds would act with the user's logins: none is found in an empty folder.
        "PULUMI_HOME": str(empty / "pulumi"),
        "PULUMI_CREDENTIALS_PATH": str(empty / "pulumi"),
        "PULUMI_IGNORE_AMBIENT_PLUGINS": "true",
        "CLOUDSDK_CONFIG": str(empty / "gcloud"),
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AZURE_CONFIG_DIR": str(empty / "azure"),
        "KUBECONFIG": os.devnull,
    }
