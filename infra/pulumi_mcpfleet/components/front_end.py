"""The public end of a load balancer: its address, the proxy that ends TLS, and the redirect from HTTP."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pulumi
import pulumi_gcp as gcp

# Serverless backends of the global external Application Load Balancer (Cloud Load Balancing, "Serverless NEGs").
SCHEME: Final = "EXTERNAL_MANAGED"


@dataclass(frozen=True)
class FrontEnd:
    """What is known of a public end.

    Attributes:
        address: The IPv4 address that A records have to name.
        ready: Known once requests to the address are led on; to wait for.
    """

    address: pulumi.Output[str]
    ready: pulumi.Output[str]


def front_end(
    name: str,
    resource: str,
    *,
    project: str,
    secure: Callable[[], "gcp.compute.TargetHttpsProxy"],
    apis: Sequence[pulumi.Input[pulumi.Resource]],
    labels: Mapping[str, str],
    parent: pulumi.Resource,
) -> FrontEnd:
    """Make the public end of a load balancer.

    Args:
        name: The stack's own name for its parts.
        resource: Their name in the project.
        project: The Google Cloud project.
        secure: Makes the proxy that ends TLS.
        apis: What has to be enabled before.
        labels: Labels on the address and the forwarding rules; nothing else of it can carry any.
        parent: The component that the parts belong to.
    """
    child = pulumi.ResourceOptions(parent=parent)
    first = pulumi.ResourceOptions(parent=parent, depends_on=apis)
    address = gcp.compute.GlobalAddress(name, project=project, name=resource, labels=labels or None, opts=first)
    redirect = gcp.compute.URLMap(
        f"{name}-redirect",
        project=project,
        name=f"{resource}-redirect",
        default_url_redirect={
            "https_redirect": True,
            # 308: a client that follows it sends its POST again as a POST.
            "redirect_response_code": "PERMANENT_REDIRECT",
            "strip_query": False,
        },
        opts=first,
    )
    plain = gcp.compute.TargetHttpProxy(name, project=project, name=resource, url_map=redirect.id, opts=child)
    rules = [
        gcp.compute.GlobalForwardingRule(
            f"{name}-{scheme}",
            project=project,
            name=f"{resource}-{scheme}",
            ip_address=address.id,
            port_range=port,
            target=target,
            load_balancing_scheme=SCHEME,
            labels=labels or None,
            opts=child,
        )
        for scheme, port, target in (("https", "443", secure().id), ("http", "80", plain.id))
    ]
    ready = pulumi.Output.all(*(rule.id for rule in rules)).apply(lambda ids: str(ids[0]))
    return FrontEnd(address.address, ready)
