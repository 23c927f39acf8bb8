"""The emulated providers called as the engine calls them, in memory, over a Google that is a dictionary."""

import json
from dataclasses import dataclass, field

import httpx2
import pytest
from google.rpc import status_pb2
from pulumi.runtime.proto import provider_pb2 as pb

from mcpfleet_local_cloud.plugins.call import Call
from mcpfleet_local_cloud.plugins.docker_build.image import DockerBuildProvider
from mcpfleet_local_cloud.plugins.gcp.provider import GcpProvider
from mcpfleet_local_cloud.plugins.values import from_struct, to_struct

PROJECT = "acme"
BASE = "http://127.0.0.1:9"
ENDPOINTS = {
    "cloudRunV2CustomEndpoint": f"{BASE}/run/v2/",
    "artifactRegistryCustomEndpoint": f"{BASE}/artifactregistry/v1/",
    "iamBetaCustomEndpoint": f"{BASE}/iam/v1/",
    "resourceManagerCustomEndpoint": f"{BASE}/crm/v1/",
    "serviceUsageCustomEndpoint": f"{BASE}/serviceusage/v1beta1/",
}


class RefusedError(Exception):
    """An RPC that ended in an error; *detail* is what a partial failure carries."""

    def __init__(self, message, detail):
        super().__init__(message)
        self.detail = detail


class Context:
    """The part of a gRPC context that a servicer uses."""

    def __init__(self, peer):
        self._peer = peer
        self._detail = None

    def peer(self):
        return self._peer

    def set_trailing_metadata(self, metadata):
        status = status_pb2.Status.FromString(dict(metadata)["grpc-status-details-bin"])
        self._detail = pb.ErrorResourceInitFailed()
        assert status.details[0].Unpack(self._detail)

    def abort(self, _code, message):
        raise RefusedError(message, self._detail)


@dataclass
class Engine:
    """The engine's side of the protocol; properties are plain Python values."""

    provider: object
    peer: str = "ipv4:127.0.0.1:1"

    def _urn(self, kind, name):
        return f"urn:pulumi:dev::proj::{kind}::{name}"

    def rpc(self, method, request):
        return getattr(self.provider, method)(request, Context(self.peer))

    def configure(self, **settings):
        self.rpc("Configure", pb.ConfigureRequest(args=to_struct(settings)))
        return self

    def check_config(self, **settings):
        urn = "urn:pulumi:dev::proj::pulumi:providers:gcp::default_10_2_0"
        response = self.rpc("CheckConfig", pb.CheckRequest(urn=urn, news=to_struct(settings)))
        return [failure.reason for failure in response.failures]

    def check(self, kind, news, olds=None, **options):
        request = pb.CheckRequest(urn=self._urn(kind, "res"), name="res", news=to_struct(news), **options)
        if olds is not None:
            request.olds.CopyFrom(to_struct(olds))
        response = self.rpc("Check", request)
        return from_struct(response.inputs), [(failure.property, failure.reason) for failure in response.failures]

    def checked(self, kind, news):
        inputs, failures = self.check(kind, news)
        assert failures == []
        return inputs

    def diff(self, kind, olds, news, **options):
        return self.rpc(
            "Diff", pb.DiffRequest(urn=self._urn(kind, "res"), olds=to_struct(olds), news=to_struct(news), **options)
        )

    def changed(self, kind, olds, news):
        return sorted(self.diff(kind, olds, news).detailedDiff)

    def create(self, kind, news, *, preview=False):
        request = pb.CreateRequest(urn=self._urn(kind, "res"), name="res", properties=to_struct(news), preview=preview)
        response = self.rpc("Create", request)
        return response.id, from_struct(response.properties)

    def update(self, kind, identity, olds, news, *, preview=False):
        request = pb.UpdateRequest(
            id=identity, urn=self._urn(kind, "res"), olds=to_struct(olds), news=to_struct(news), preview=preview
        )
        return from_struct(self.rpc("Update", request).properties)

    def read(self, kind, identity, state=None, inputs=None):
        response = self.rpc(
            "Read",
            pb.ReadRequest(
                id=identity,
                urn=self._urn(kind, "res"),
                properties=to_struct(state or {}),
                inputs=to_struct(inputs or {}),
            ),
        )
        return response.id, from_struct(response.properties), from_struct(response.inputs)

    def delete(self, kind, identity, state):
        self.rpc("Delete", pb.DeleteRequest(id=identity, urn=self._urn(kind, "res"), properties=to_struct(state)))


@dataclass
class Wire:
    """Answers requests from a script and keeps them.

    `answers` maps "METHOD /path" to an answer (a body, or a status and a body), or to a list of answers given in turn,
    the last one again and again.
    """

    answers: dict = field(default_factory=dict)
    requests: list = field(default_factory=list)

    def __call__(self, request):
        self.requests.append(request)
        key = f"{request.method} {request.url.path}"
        answer = self.answers.get(key)
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            error = {"code": 404, "message": f"Resource '{request.url.path}' was not found.", "status": "NOT_FOUND"}
            answer = (404, {"error": error})
        if callable(answer):
            answer = answer(request)
        status, body = answer if isinstance(answer, tuple) else (200, answer)
        return httpx2.Response(status, json=body)

    @property
    def calls(self):
        """The requests so far as `METHOD /path?query`, without what every request has."""
        calls = []
        for request in self.requests:
            query = request.url.params.remove("alt").remove("prettyPrint")
            calls.append(f"{request.method} {request.url.path}" + (f"?{query}" if query else ""))
        self.requests.clear()
        return calls

    def bodies(self, method):
        return [
            json.loads(request.content) for request in self.requests if request.method == method and request.content
        ]


@pytest.fixture
def wire():
    return Wire()


@pytest.fixture
def engine(wire, monkeypatch):
    """The gcp provider, configured, over *wire*; its pauses take no time."""
    monkeypatch.setattr(Call, "wait", lambda self, _seconds: self.raise_if_stopped())
    settings = {"project": PROJECT, "region": "r1", "accessToken": "token", **ENDPOINTS}
    return Engine(GcpProvider(httpx2.MockTransport(wire))).configure(**settings)


@pytest.fixture
def unconfigured(wire):
    """The gcp provider as the engine first meets it."""
    return Engine(GcpProvider(httpx2.MockTransport(wire)))


@pytest.fixture
def refused():
    """The error that `Engine` raises for a refused RPC."""
    return RefusedError


@pytest.fixture
def docker_engine():
    """The docker-build provider, configured."""
    return Engine(DockerBuildProvider()).configure()
