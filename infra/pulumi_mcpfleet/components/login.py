"""The container of `access: login`: it takes a service's requests, logs people in, and passes calls to the server.

What it is for and how it works is in docs/adr/0031 to 0033; the program is `mcpfleet_login`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import pulumi
import pulumi_gcp as gcp

from pulumi_mcpfleet import environment, naming
from pulumi_mcpfleet.components import template
from pulumi_mcpfleet.fleet import Server
from pulumi_mcpfleet.fleet.access import Login
from pulumi_mcpfleet.fleet.containers import LOGIN, LOGIN_CPU, LOGIN_MEMORY, SERVER, login_port
from pulumi_mcpfleet.fleet.parts import Probe, SecretRef

if TYPE_CHECKING:
    from pulumi_gcp.cloudrunv2 import (
        ServiceTemplateContainerArgsDict as Container,
    )

_RECORD_DAYS: Final = 31
"""A day more than the longest life of a login (`mcpfleet_login.families`)."""

_STARTUP: Final = Probe(period=1, timeout=1, failures=60)


def create_bucket(
    server: str,
    place: str,
    *,
    project: str,
    region: str,
    labels: Mapping[str, str],
    member: pulumi.Output[str],
    options: pulumi.ResourceOptions,
) -> tuple[pulumi.Output[str], pulumi.Resource]:
    """Create the bucket of a server's logins.

    Args:
        server: The server's name.
        place: The name of its service in the stack, which the bucket's name has.
        project: The Google Cloud project.
        region: The bucket's region.
        labels: Labels on the bucket.
        member: The server's account, which reads and writes the records.
        options: Options of both resources.

    Returns:
        The bucket's name, and the grant, which must exist before the service.
    """
    name = naming.login_name(server)
    bucket = gcp.storage.Bucket(
        name,
        project=project,
        location=region,
        name=naming.login_bucket(project, place),
        force_destroy=True,
        uniform_bucket_level_access=True,
        public_access_prevention="enforced",
        # Records are replaced every few minutes; deleted versions would be paid for, and could be read again.
        soft_delete_policy={"retention_duration_seconds": 0},
        lifecycle_rules=[{"action": {"type": "Delete"}, "condition": {"age": _RECORD_DAYS}}],
        labels=dict(labels) or None,
        opts=options,
    )
    grant = gcp.storage.BucketIAMMember(
        name, bucket=bucket.name, role="roles/storage.objectUser", member=member, opts=options
    )
    return bucket.name, grant


def put_in_front(
    containers: Sequence["Container"],
    spec: Server,
    login: Login,
    *,
    image: pulumi.Output[str],
    base_url: pulumi.Output[str],
    bucket: pulumi.Output[str],
    project: str,
) -> list["Container"]:
    """Return the containers of a revision with that of the login, which takes the requests in place of the server's.

    Args:
        containers: The server's own container, and its sidecars.
        spec: The server.
        login: Its access.
        image: The image of the login's container.
        base_url: The service's URL.
        bucket: The bucket of the logins.
        project: The Google Cloud project.
    """
    own, *sidecars = containers
    own = own.copy()
    own["name"] = SERVER
    for key in ("ports", "readiness_probe"):
        own.pop(key, None)
    port = login_port(spec.port)
    env: dict[str, pulumi.Input[str]] = {
        environment.PROJECT: project,
        environment.BASE_URL: base_url,
        f"{environment.PREFIX}LOGIN_BUCKET": bucket,
        **environment.login_environment(
            path=spec.endpoint,
            health_path=spec.health_path,
            allowed_origins=spec.allowed_origins,
            issuer=login.issuer,
            client_id=login.client.client_id,
            members=login.members,
            registration=login.registration,
            application_port=spec.port,
        ),
    }
    secrets = {
        environment.LOGIN_CLIENT_SECRET: SecretRef(secret=login.client.secret, version=login.client.version),
        environment.LOGIN_KEYS: login.key,
    }
    front: Container = {
        "name": LOGIN,
        "image": image,
        "envs": template.variables(env, secrets),
        "ports": {"container_port": port, "name": "http1"},
        "resources": {
            "limits": {"cpu": LOGIN_CPU, "memory": LOGIN_MEMORY},
            "cpu_idle": spec.cpu_throttling,
            "startup_cpu_boost": spec.startup_boost,
        },
        "startup_probe": {
            "tcp_socket": {"port": port},
            "period_seconds": _STARTUP.period,
            "timeout_seconds": _STARTUP.timeout,
            "failure_threshold": _STARTUP.failures,
        },
        "depends_ons": [SERVER],
    }
    return [front, own, *sidecars]
