"""Asks the local cloud's provider of Google's resources, which has pulumi-gcp's rules, if changed inputs replace."""

import pytest
from pulumi.runtime.proto import provider_pb2 as pb

from mcpfleet_local_cloud.plugins.gcp.provider import GcpProvider
from mcpfleet_local_cloud.plugins.values import to_struct


class Call:
    """As much of a gRPC context as the provider uses."""

    def peer(self):
        return "ipv4:127.0.0.1:1"

    def abort(self, _code, message):
        pytest.fail(message)


def configured_provider():
    """The provider, of a cloud that is not there."""
    endpoints = {
        "cloudRunV2CustomEndpoint": "http://127.0.0.1:9/run/v2/",
        "artifactRegistryCustomEndpoint": "http://127.0.0.1:9/artifactregistry/v1/",
        "iamBetaCustomEndpoint": "http://127.0.0.1:9/iam/v1/",
        "resourceManagerCustomEndpoint": "http://127.0.0.1:9/crm/v1/",
        "serviceUsageCustomEndpoint": "http://127.0.0.1:9/serviceusage/v1beta1/",
    }
    provider = GcpProvider()
    settings = {"project": "p", "region": "r1", "accessToken": "token", **endpoints}
    provider.Configure(pb.ConfigureRequest(args=to_struct(settings)), Call())
    return provider


def find_replacement(provider, old_inputs, resource):
    """The provider's answer if the inputs of *resource* replace one that has *old_inputs*; otherwise None."""
    urn = f"urn:pulumi:test::mcpfleet::{resource.type}::{resource.name}"
    olds, news = (
        provider.Check(pb.CheckRequest(urn=urn, news=to_struct(inputs)), Call()).inputs
        for inputs in (old_inputs, resource.inputs)
    )
    answer = provider.Diff(pb.DiffRequest(urn=urn, olds=olds, news=news), Call())
    is_replaced = answer.replaces or set(resource.replace_on_changes) & set(answer.detailedDiff)
    return answer if is_replaced else None
