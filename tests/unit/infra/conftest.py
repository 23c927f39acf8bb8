"""Run Pulumi code against no cloud at all, and keep what it registered.

The fixture `deploy` runs a program under Pulumi's mocks and returns a `Plan`: every resource with what
mocks alone do not show (parent, dependencies, secrets, aliases, protect), and the exports. Tests then
make plain asserts on it; an assert inside `.apply()` without `pulumi.runtime.test` would never fail.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pytest
from google.protobuf import json_format
from pulumi.runtime import mocks, rpc, settings

from tests.unit.event_loops import event_loops

ADDRESS = "gcp:compute/globalAddress:GlobalAddress"
AGENT = "gcp:projects/serviceIdentity:ServiceIdentity"
PROOF = "gcp:certificatemanager/dnsAuthorization:DnsAuthorization"
ACCOUNT = "gcp:serviceaccount/account:Account"
API = "gcp:projects/service:Service"
GRANT = "gcp:cloudrunv2/serviceIamMember:ServiceIamMember"
IMAGE = "docker-build:index:Image"
CLOUD_IMAGE = "mcpfleet-build:index:Image"
REPOSITORY = "gcp:artifactregistry/repository:Repository"
SERVICE = "gcp:cloudrunv2/service:Service"
STACK = ("pulumi:pulumi:Stack", "mcpfleet-test")

Named = tuple[str, str]
"""A resource by its type and name."""

NUMBER = "4711"
DIGEST = "sha256:" + "d1" * 32

# What a cloud answers that the program did not say; nothing else is made up.
SERVER_ASSIGNED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    ACCOUNT: lambda i: {
        "email": f"{i['accountId']}@{i['project']}.iam.gserviceaccount.com",
        "member": f"serviceAccount:{i['accountId']}@{i['project']}.iam.gserviceaccount.com",
    },
    "gcp:sql/databaseInstance:DatabaseInstance": lambda i: {"connectionName": f"{i['project']}:{i['region']}:db"},
    "gcp:secretmanager/secretVersion:SecretVersion": lambda i: {"version": "1"},
    REPOSITORY: lambda i: {"registryUri": f"{i['location']}-docker.pkg.dev/{i['project']}/{i['repositoryId']}"},
    CLOUD_IMAGE: lambda i: {"digest": DIGEST},
    IMAGE: lambda i: {"digest": DIGEST, "ref": f"{i['tags'][0]}@{DIGEST}"},
    SERVICE: lambda i: {"uri": "" if i.get("defaultUriDisabled") else f"https://{i['name']}-h4sh-ew.a.run.app"},
    ADDRESS: lambda i: {"address": "203.0.113.7"},
    PROOF: lambda i: {
        "dnsResourceRecords": [{"name": f"_acme-challenge.{i['domain']}.", "type": "CNAME", "data": "x."}]
    },
    AGENT: lambda i: {"member": f"serviceAccount:service-4711@gcp-sa-{i['service'].partition('.')[0]}.test"},
}
LOOKUPS = {
    "gcp:compute/getNetwork:getNetwork": {"name": "default"},
    "gcp:compute/getSubnetwork:getSubnetwork": {"name": "default"},
    "gcp:secretmanager/getSecretVersion:getSecretVersion": {"enabled": True},
    "gcp:organizations/getClientConfig:getClientConfig": {"accessToken": "ya29.short-lived", "project": "p"},
    "gcp:organizations/getProject:getProject": {"number": NUMBER, "projectId": "p"},
    "gcp:secretmanager/getSecretVersionAccess:getSecretVersionAccess": {"secretData": "s3cr3t"},
}


@dataclass(frozen=True)
class Registered:
    """One resource as the program registered it."""

    type: str
    name: str
    parent: Named | None
    inputs: dict[str, Any]
    secrets: frozenset[str]
    dependencies: frozenset[Named]
    aliases: tuple[Any, ...]
    protect: bool
    delete_before_replace: bool | None
    """None: the provider decides."""
    replace_on_changes: tuple[str, ...]
    """Properties whose change replaces it, whatever the provider says."""
    provider: str = ""
    """Its own provider, where it has one: its URN and id."""


@dataclass
class Plan:
    """Everything one run registered."""

    resources: list[Registered] = field(default_factory=list)
    exports: dict[str, Any] = field(default_factory=dict)
    component_outputs: dict[Named, dict[str, Any]] = field(default_factory=dict)

    def of(self, type_: str) -> list[Registered]:
        return [r for r in self.resources if r.type == type_]

    def one(self, type_: str, name: str | None = None) -> Registered:
        (found,) = (r for r in self.of(type_) if name in (None, r.name))
        return found

    def names(self, type_: str) -> set[str]:
        return {r.name for r in self.of(type_)}

    def before(self, resource: Registered) -> set[Named]:
        """Everything that *resource* waits for, directly or through others."""
        known = {(r.type, r.name): r for r in self.resources}
        found: set[Named] = set()
        ahead = list(resource.dependencies)
        while ahead:
            one = ahead.pop()
            if one not in found:
                found.add(one)
                ahead += known[one].dependencies
        return found

    def service(self, server: str | None = None) -> Registered:
        """The service of a server in its first region; its name is the server's, then the region."""
        return next(r for r in self.of(SERVICE) if server is None or r.inputs["name"] == f"mcp-{server}")

    def container(self, server: str | None = None) -> dict[str, Any]:
        """The server's own container: the one that is alone, or the first beside sidecars."""
        container, *_ = self.service(server).inputs["template"]["containers"]
        return container

    def environment(self, server: str | None = None) -> dict[str, str]:
        return {entry["name"]: entry["value"] for entry in self.container(server)["envs"] if "value" in entry}


class _Cloud(pulumi.runtime.Mocks):
    def __init__(self, *, answers: bool, lookups: Mapping[str, Any]) -> None:
        self.answers = answers
        self.lookups = lookups

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        extra = SERVER_ASSIGNED.get(args.typ, lambda _: {})(args.inputs)
        if self.answers:
            return f"{args.name}-id", {**args.inputs, **extra}
        return "", {**args.inputs, **dict.fromkeys(extra, rpc.UNKNOWN)}

    def call(self, args: pulumi.runtime.MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        if not self.answers:
            assert args.token.endswith(":getClientConfig"), f"the preview of a new stack asks a cloud: {args.token}"
        assert args.token in self.lookups, f"no component may look things up in the cloud: {args.token}"
        answer = self.lookups[args.token]
        if isinstance(answer, Exception):
            raise answer
        return answer, []


class _Recorder(mocks.MockMonitor):
    def __init__(self, cloud: _Cloud, plan: Plan) -> None:
        super().__init__(cloud)
        self.plan = plan

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802, gRPC's name
        secrets: set[str] = set()
        inputs = _revealed(json_format.MessageToDict(request.object), "", secrets)
        self.plan.resources.append(
            Registered(
                type=request.type,
                name=request.name,
                parent=_named(request.parent) if request.parent else None,
                inputs=inputs,
                secrets=frozenset(secrets),
                dependencies=frozenset(map(_named, request.dependencies)),
                aliases=(*request.aliasURNs, *request.aliases),
                protect=request.protect,
                delete_before_replace=request.deleteBeforeReplace if request.deleteBeforeReplaceDefined else None,
                replace_on_changes=tuple(request.replaceOnChanges),
                provider=request.provider,
            )
        )
        return super().RegisterResource(request)

    def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: N802, gRPC's name
        self.plan.component_outputs[_named(request.urn)] = _revealed(
            json_format.MessageToDict(request.outputs), "", set()
        )
        return super().RegisterResourceOutputs(request)


def _named(urn: str) -> Named:
    """The type and name in *urn*: urn:pulumi:STACK::PROJECT::PARENT-TYPES$TYPE::NAME."""
    _, _, types, name = urn.split("::", 3)
    return types.rpartition("$")[2], name


def _revealed(value: Any, path: str, secrets: set[str]) -> Any:
    """*value* without Pulumi's wrapping of secrets; the path of each secret goes to *secrets*."""
    if isinstance(value, list):
        return [_revealed(item, f"{path}[{i}]", secrets) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if value.get(rpc._special_sig_key) == rpc._special_secret_sig:
        secrets.add(path)
        return _revealed(value["value"], path, secrets)
    return {key: _revealed(item, f"{path}.{key}".lstrip("."), secrets) for key, item in value.items()}


def _deploy(
    program: Callable[[], object],
    *,
    config: dict[str, str] | None = None,
    cloud_answers: bool = True,
    lookups: Mapping[str, Any] = {},
    plan: Plan | None = None,
) -> Plan:
    """Run *program* to the end and return everything it registered.

    With `cloud_answers=False` it is the preview of a new stack: nothing that a cloud assigns is known. *lookups* are
    answers of functions, by their tokens; an exception is raised. *plan* is filled, also where the program fails.
    """
    plan = plan or Plan()
    with event_loops(4):
        try:
            monitor = _Recorder(_Cloud(answers=cloud_answers, lookups={**LOOKUPS, **lookups}), plan)
            mocks.set_mocks(monitor.mocks, project="mcpfleet", stack="test", preview=not cloud_answers, monitor=monitor)
            pulumi.runtime.set_all_config(config or {})

            @pulumi.runtime.test
            def run() -> None:
                program()
                stack = settings.get_root_resource()
                pulumi.Output.all(**stack.outputs).apply(plan.exports.update)

            run()
        finally:
            settings.reset_options()
            pulumi.runtime.set_all_config({})
    return plan


@pytest.fixture
def empty_plan() -> Plan:
    """A plan to hand to `deploy`, which also a program that fails fills."""
    return Plan()


@pytest.fixture(scope="session")
def deploy() -> Callable[..., Plan]:
    """The function that runs a program against no cloud."""
    return _deploy
