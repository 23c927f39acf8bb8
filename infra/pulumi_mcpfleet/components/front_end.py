"""The front end of a load balancer: its address, its HTTPS proxy, and the redirect from HTTP."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pulumi
import pulumi_gcp as gcp

# The scheme of the global external Application Load Balancer (Cloud Load Balancing, "Serverless NEGs").
SCHEME: Final = "EXTERNAL_MANAGED"


@dataclass(frozen=True)
class FrontEnd:
    """The front end of a load balancer.

    Attributes:
        address: The IPv4 address for A records.
        ready: A value that is known when the forwarding rules exist, so that dependents wait for them.
    """

    address: pulumi.Output[str]
    ready: pulumi.Output[str]


def create_front_end(
    name: str,
    resource: str,
    *,
    project: str,
    create_https_proxy: Callable[[], "gcp.compute.TargetHttpsProxy"],
    apis: Sequence[pulumi.Input[pulumi.Resource]],
    labels: Mapping[str, str],
    parent: pulumi.Resource,
) -> FrontEnd:
    """Create the front end of a load balancer.

    Args:
        name: The name of its resources in the stack.
        resource: Their name in the project.
        project: The Google Cloud project.
        create_https_proxy: Creates the proxy that terminates TLS.
        apis: The APIs that must be enabled first.
        labels: Labels on the address and the forwarding rules; its other resources can't have labels.
        parent: The component that the resources belong to.
    """
    child = pulumi.ResourceOptions(parent=parent)
    after_apis = pulumi.ResourceOptions(parent=parent, depends_on=apis)
    address = gcp.compute.GlobalAddress(name, project=project, name=resource, labels=labels or None, opts=after_apis)
    redirect = gcp.compute.URLMap(
        f"{name}-redirect",
        project=project,
        name=f"{resource}-redirect",
        default_url_redirect={
            "https_redirect": True,
            # 308: after this redirect, a client repeats a POST as a POST.
            "redirect_response_code": "PERMANENT_REDIRECT",
            "strip_query": False,
        },
        opts=after_apis,
    )
    http_proxy = gcp.compute.TargetHttpProxy(name, project=project, name=resource, url_map=redirect.id, opts=child)
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
        for scheme, port, target in (("https", "443", create_https_proxy().id), ("http", "80", http_proxy.id))
    ]
    ready = pulumi.Output.all(*(rule.id for rule in rules)).apply(lambda ids: str(ids[0]))
    return FrontEnd(address.address, ready)
