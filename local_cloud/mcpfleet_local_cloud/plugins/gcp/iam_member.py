"""One member of one role in a resource's IAM policy (docs/google-apis.md 1.1, 1.2 and 1.4).

Read, modify, write with the policy's etag, as tpgiamresource does; the real provider's pauses of one second between
its three checks are left out.
"""

import re
import threading
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from mcpfleet_local_cloud.plugins.call import Call, ProviderError
from mcpfleet_local_cloud.plugins.gcp.alike import same_resource
from mcpfleet_local_cloud.plugins.gcp.common import PROJECT, GcpResource
from mcpfleet_local_cloud.plugins.gcp.transport import Api, ApiError, retry_conflicts
from mcpfleet_local_cloud.plugins.properties import Field, block, text
from mcpfleet_local_cloud.plugins.resources import Found
from mcpfleet_local_cloud.plugins.values import UNKNOWN, Properties, items, table

_POLICY_VERSION: Final = 3
_CHECKS: Final = 3
_ROLE: Final = r"(?:(?:projects|organizations)/[^/ ]+/)?roles/[^/ ]+"
_CONDITION: Final = (
    text("expression", required=True, force_new=True),
    text("title", required=True, force_new=True),
    text("description", force_new=True),
)
_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


def owner_field(name: str, **facts: Any) -> Field:
    """The property that names the resource: the program may give its short name, the state has the full one."""
    return text(name, required=True, force_new=True, alike=same_resource, **facts)


def member_fields(*of: Field) -> tuple[Field, ...]:
    """The properties of a grant on a resource that the properties *of* name."""
    return (
        *of,
        PROJECT,
        text("role", required=True, force_new=True),
        text("member", required=True, force_new=True, ignore_case=True),
        block("condition", _CONDITION, force_new=True),
        text("etag", output=True),
    )


class IamMember(GcpResource):
    """A grant of one role to one member; the other members of the role are left alone."""

    owner: ClassVar[str]  # the property that names the resource
    noun: ClassVar[str]  # the resource, for error texts
    options_in_body: ClassVar[bool] = False

    def complete(self, config: Api, news: Properties) -> Properties:
        """The inputs with the provider's project and region, and the resource by its last name."""
        news = super().complete(config, news)
        if news.get("location") is None and config.config.region and "{location}" in self.id_form:
            news = {**news, "location": config.config.region}
        owner = news.get(self.owner)
        if isinstance(owner, str) and "/" in owner:
            found = re.fullmatch(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", self.id_form), owner)
            news = {**news, **(found.groupdict() if found else {self.owner: owner.rpartition("/")[2]})}
        return news

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> Found:
        """Put the member into the policy, and see it there."""
        news = self.complete(config, news)
        if preview:
            return Found("", {**news, "etag": UNKNOWN})
        address = self.address(news)
        with _locks[address]:
            self._change(config, call, address, news, add=True)
        policy = self.policy(config, call, address)
        return Found(self._id(address, news), self._granted(address, news, policy.get("etag", "")))

    def update(
        self,
        config: Api,
        call: Call,
        resource_id: str,
        olds: Properties,
        news: Properties,
        *,
        preview: bool,
    ) -> Properties:
        """Every real change replaces a member; what is left is the same grant in other words."""
        news = self.complete(config, news)
        return self._granted(self.address(news), news, olds.get("etag", ""))

    def read(self, config: Api, call: Call, resource_id: str, state: Properties) -> Found | None:
        """Look for the member in the policy."""
        wanted = self.complete(config, state) if state.get("member") else self._imported(config, resource_id)
        address = self.address(wanted)
        try:
            policy = self.policy(config, call, address)
        except ApiError as error:
            if error.missing:
                return None
            raise
        binding = _binding(policy, wanted, by_title=not state)
        member = next((one for one in (binding or {}).get("members", []) if _same(one, wanted["member"])), None)
        if binding is None or member is None:
            return None
        found = self._granted(address, wanted, policy.get("etag", ""))
        if not state:
            found["member"] = member
        if binding.get("condition"):
            found["condition"] = {key: value for key, value in binding["condition"].items() if value}
        return Found(self._id(address, found), found)

    def delete(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """Take the member out of the policy; a resource that is gone took its policy with it."""
        olds = self.complete(config, olds)
        address = self.address(olds)
        try:
            with _locks[address]:
                self._change(config, call, address, olds, add=False)
        except ApiError as error:
            if not error.missing:
                raise

    def _change(self, api: Api, call: Call, address: str, grant: Properties, *, add: bool) -> None:
        def once() -> None:
            policy = self.policy(api, call, address)
            changed = _with(policy, grant) if add else _without(policy, grant)
            version = _POLICY_VERSION if add else policy.get("version", _POLICY_VERSION)
            self.write(api, call, address, {**changed, "version": version})

        verb = "applying" if add else "removing"
        try:
            retry_conflicts(call, once)
            seen = 0
            while seen < _CHECKS:
                binding = _binding(self.policy(api, call, address), grant)
                there = binding is not None and any(_same(one, grant["member"]) for one in binding["members"])
                if there == add:
                    seen += 1
                else:
                    call.wait(0.5)
        except ApiError as error:
            if error.missing and not add:
                raise
            raise ProviderError(f"Error {verb} IAM policy for {self.noun} {address!r}: {error}") from error

    def _granted(self, address: str, grant: Mapping[str, Any], etag: str) -> Properties:
        """The state of a grant; it names the resource in full (the updaters' GetResourceId)."""
        return {**grant, self.owner: address, "etag": etag}

    def write(self, api: Api, call: Call, address: str, policy: dict[str, Any]) -> None:
        """Replace the policy of the resource."""
        body: dict[str, Any] = {"policy": policy}
        if self.options_in_body:
            body["updateMask"] = "bindings,etag,auditConfigs"
        api.send(call, "POST", self.endpoint, f"{address}:setIamPolicy", body)

    def policy(self, api: Api, call: Call, address: str) -> dict[str, Any]:
        """The policy of the resource."""
        path = f"{address}:getIamPolicy"
        if self.options_in_body:
            body = {"options": {"requestedPolicyVersion": _POLICY_VERSION}}
            return api.send(call, "POST", self.endpoint, path, body)
        return api.send(call, "GET", self.endpoint, path)

    def _id(self, address: str, grant: Mapping[str, Any]) -> str:
        condition = table(grant.get("condition"))
        parts = [address, grant["role"], grant["member"], condition.get("title", "")]
        return "/".join(part for part in parts if part)

    def _imported(self, api: Api, resource_id: str) -> Properties:
        """`RESOURCE ROLE MEMBER [CONDITION TITLE]`, or the id that a member has in the state."""
        found = re.fullmatch(rf"(?P<of>.+?)[ /](?P<role>{_ROLE})[ /](?P<member>[^ ]+)(?: (?P<title>.+))?", resource_id)
        if found is None:
            raise ProviderError(
                f"Wrong number of parts to Member id {resource_id!r}; expected 'resource_name role member "
                "[condition_title]'."
            )
        grant: Properties = {**self.parts(api, found["of"]), "role": found["role"], "member": found["member"]}
        if found["title"]:
            grant["condition"] = {"title": found["title"]}
        return grant


def _same(one: str, other: str) -> bool:
    return one.casefold() == other.casefold()


def _condition(grant: Mapping[str, Any]) -> dict[str, str]:
    given = table(grant.get("condition"))
    return {key: given[key] for key in ("title", "description", "expression") if given.get(key)}


def _binding(policy: Mapping[str, Any], grant: Mapping[str, Any], *, by_title: bool = False) -> dict[str, Any] | None:
    wanted = _condition(grant)
    for binding in map(table, items(policy.get("bindings"))):
        has = _condition(binding)
        matches = has.get("title") == wanted.get("title") if by_title else has == wanted
        if binding.get("role") == grant["role"] and matches:
            return binding
    return None


def _with(policy: Mapping[str, Any], grant: Mapping[str, Any]) -> dict[str, Any]:
    kept = [dict(table(one)) for one in items(policy.get("bindings"))]
    binding = _binding({"bindings": kept}, grant)
    if binding is None:
        condition = _condition(grant)
        kept.append(
            {"role": grant["role"], "members": [grant["member"]], **({"condition": condition} if condition else {})}
        )
    elif not any(_same(one, grant["member"]) for one in binding["members"]):
        binding["members"] = sorted([*binding["members"], grant["member"]])
    return _policy_body(policy, kept)


def _without(policy: Mapping[str, Any], grant: Mapping[str, Any]) -> dict[str, Any]:
    kept = [dict(table(one)) for one in items(policy.get("bindings"))]
    binding = _binding({"bindings": kept}, grant)
    if binding is not None:
        binding["members"] = [one for one in binding["members"] if not _same(one, grant["member"])]
    return _policy_body(policy, [one for one in kept if one["members"]])


def _policy_body(policy: Mapping[str, Any], bindings: list[dict[str, Any]]) -> dict[str, Any]:
    body: dict[str, Any] = {"bindings": bindings} if bindings else {}
    return body | {key: policy[key] for key in ("etag", "auditConfigs") if policy.get(key)}


class RunServiceIamMember(IamMember):
    """A member of a role on a Cloud Run service."""

    type_name = "gcp:cloudrunv2/serviceIamMember:ServiceIamMember"
    fields = member_fields(
        text("name", force_new=True, autoname=255, alike=same_resource), text("location", computed=True, force_new=True)
    )
    endpoint = "cloudRunV2CustomEndpoint"
    id_form = "projects/{project}/locations/{location}/services/{name}"
    import_forms = ("{project}/{location}/{name}", "{location}/{name}", "{name}")
    owner = "name"
    noun = "cloudrunv2 service"


class RepositoryIamMember(IamMember):
    """A member of a role on an Artifact Registry repository."""

    type_name = "gcp:artifactregistry/repositoryIamMember:RepositoryIamMember"
    fields = member_fields(owner_field("repository"), text("location", computed=True, force_new=True))
    endpoint = "artifactRegistryCustomEndpoint"
    id_form = "projects/{project}/locations/{location}/repositories/{repository}"
    import_forms = ("{project}/{location}/{repository}", "{location}/{repository}", "{repository}")
    owner = "repository"
    noun = "artifactregistry repository"


class ProjectIamMember(IamMember):
    """A member of a role on a project; its ids and import ids begin with the bare project."""

    type_name = "gcp:projects/iAMMember:IAMMember"
    fields = member_fields()
    endpoint = "resourceManagerCustomEndpoint"
    id_form = "projects/{project}"
    import_forms = ("{project}",)
    owner = "project"
    noun = "project"
    options_in_body = True

    def _id(self, address: str, grant: Mapping[str, Any]) -> str:
        return super()._id(address.removeprefix("projects/"), grant)

    def _granted(self, address: str, grant: Mapping[str, Any], etag: str) -> Properties:
        return {**grant, "etag": etag}
