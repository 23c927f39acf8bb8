"""A cloud on which an account may build, and the provider attached to it; no process, no Docker."""

import json
import threading

import httpx2
import pytest
from pulumi.runtime.proto import provider_pb2 as pb

from pulumi_mcpfleet.cloud_build.servicer import Provider, _to_dict, _to_struct

BUILDER = "mcpfleet-build"
BUCKET = "acme-source"
PARENT = "/cloudbuild/v1/projects/mcpfleet-local/locations/europe-west1"
DIGEST = "sha256:" + "d1" * 32
ADA = "user:ada@mcpfleet.test"
URN = "urn:pulumi:local::mcpfleet::mcpfleet-build:index:Image::weather"


class RefusedError(Exception):
    pass


class Context:
    def abort(self, _code, message):
        raise RefusedError(message)


class Engine:
    """The engine's side of the provider; *said* has the messages that it got."""

    def __init__(self, running, worker, tmp_path):
        self.running, self.worker = running, worker
        self.said = []
        self.requests = []
        self.stop_after = None
        self.away = ""
        """The end of the paths that are answered with 503."""
        environ = {
            "GOOGLE_CLOUD_BUILD_CUSTOM_ENDPOINT": "http://127.0.0.1:9/cloudbuild/v1/",
            "GOOGLE_LOGGING_CUSTOM_ENDPOINT": "http://127.0.0.1:9/logging/v2/",
            "GOOGLE_STORAGE_CUSTOM_ENDPOINT": "http://127.0.0.1:9/storage/v1/",
            "GOOGLE_CREDENTIALS": json.dumps(running.credential("deployer")),
        }
        self.provider = Provider("", environ, httpx2.MockTransport(self._answer), self._pause)
        self.provider._show = lambda urn, message: self.said.append(message)
        self.put_fails = False
        self.elsewhere = ""
        """The host at which uploads go on, if it is another."""
        self.told_elsewhere = []
        self.email = None
        self.polls = 0

    def _pause(self, stopped: threading.Event, seconds):
        self.polls += 1
        assert self.polls < 5000, "it waits for ever"
        if self.stop_after is not None and self.worker.began.is_set():
            self.stop_after -= 1
            if self.stop_after <= 0:
                stopped.set()

    def _answer(self, request):
        path = request.url.raw_path.decode()
        self.requests.append(f"{request.method} {path}")
        if self.away and path.endswith(self.away):
            return httpx2.Response(503)
        if self.elsewhere and str(request.url).startswith(self.elsewhere):
            self.told_elsewhere.append(dict(request.headers))
            return httpx2.Response(403)
        if self.put_fails and request.method == "PUT":
            return httpx2.Response(403)
        headers = dict(request.headers)
        if self.email:
            headers["authorization"] = self.running.headers(self.email)["Authorization"]
        answer = self.running.client.request(request.method, path, content=request.content, headers=headers)
        said = dict(answer.headers)
        if self.elsewhere and "location" in said:
            said["location"] = f"{self.elsewhere}/upload"
        return httpx2.Response(answer.status_code, content=answer.content, headers=said)

    def check(self, news):
        answer = self.provider.Check(pb.CheckRequest(urn=URN, news=_to_struct(news)), Context())
        return _to_dict(answer.inputs), [(failure.property, failure.reason) for failure in answer.failures]

    def create(self, news, preview=False):
        answer = self.provider.Create(
            pb.CreateRequest(urn=URN, properties=_to_struct(news), preview=preview), Context()
        )
        return _to_dict(answer.properties)

    def update(self, olds, news, preview=False):
        request = pb.UpdateRequest(urn=URN, id="i", olds=_to_struct(olds), news=_to_struct(news), preview=preview)
        return _to_dict(self.provider.Update(request, Context()).properties)

    def diff(self, olds, news):
        answer = self.provider.Diff(pb.DiffRequest(urn=URN, olds=_to_struct(olds), news=_to_struct(news)), Context())
        return list(answer.diffs), list(answer.replaces)

    def is_there(self, state):
        request = pb.ReadRequest(urn=URN, id="i", properties=_to_struct(state), inputs=_to_struct(state))
        return self.provider.Read(request, Context()).id == "i"

    def delete(self, state):
        self.provider.Delete(pb.DeleteRequest(urn=URN, id="i", properties=_to_struct(state)), Context())


@pytest.fixture
def api(running):
    running.enable("cloudbuild", "storage", "logging", "artifactregistry")
    cloud, project = running.cloud, running.project
    running.email = cloud.accounts.create(project, BUILDER)["email"]
    body = {"name": BUCKET, "location": "europe-west1"}
    assert running.call("POST", f"/storage/v1/b?project={project}", body).status_code == 200
    member = f"serviceAccount:{running.email}"
    running.grant("roles/storage.objectViewer", member, f"projects/{project}/buckets/{BUCKET}")
    running.grant("roles/logging.logWriter", member)
    return running


@pytest.fixture
def engine(api, worker, tmp_path):
    return Engine(api, worker, tmp_path)


@pytest.fixture
def news(api, tmp_path):
    folder = tmp_path / "weather"
    folder.mkdir()
    (folder / "server.py").write_text("print('sunny')")
    return {
        "project": api.project,
        "location": "europe-west1",
        "bucket": BUCKET,
        "serviceAccount": api.email,
        "image": "127.0.0.1:9/europe-west1/mcpfleet-local/mcpfleet/weather",
        "context": str(folder),
        "inline": "FROM base\nCOPY . .",
        "buildArgs": {"PRICE": "$PRICE is $$5", "BASE_IMAGE": "base"},
        "labels": {"a": "b"},
        "timeout": 600,
    }


@pytest.fixture
def build(api):
    """A build that Google would take."""
    return {
        "steps": [{"name": "gcr.io/cloud-builders/docker", "args": ["build", "."]}],
        "serviceAccount": f"projects/{api.project}/serviceAccounts/{api.email}",
        "options": {"logging": "CLOUD_LOGGING_ONLY"},
    }
