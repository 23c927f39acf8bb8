"""The resource types for one member of one role in a resource's IAM policy (docs/google-apis.md 1.1, 1.2 and 1.4).

They read, modify and write the policy with its etag, as tpgiamresource does, but without the real provider's pauses of
one second between its three checks.
"""

import re
import threading
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from mcpfleet_local_cloud.plugins.call import Call, ProviderError
from mcpfleet_local_cloud.plugins.gcp.common import PROJECT, GcpResource
from mcpfleet_local_cloud.plugins.gcp.equivalence import same_resource
from mcpfleet_local_cloud.plugins.gcp.transport import Api, ApiError, retry_conflicts
from mcpfleet_local_cloud.plugins.properties import Field, block, text
from mcpfleet_local_cloud.plugins.resources import ResourceState
from mcpfleet_local_cloud.plugins.values import UNKNOWN, Properties, as_dict, as_list

_POLICY_VERSION: Final = 3
_CONFIRMATIONS: Final = 3
_ROLE: Final = r"(?:(?:projects|organizations)/[^/ ]+/)?roles/[^/ ]+"
_CONDITION: Final = (
    text("expression", required=True, force_new=True),
    text("title", required=True, force_new=True),
    text("description", force_new=True),
)
_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


def owner_field(name: str, **attributes: Any) -> Field:
    """The property that names the resource: the program may set the short name, the state has the full name."""
    return text(name, required=True, force_new=True, equivalent=same_resource, **attributes)


def member_fields(*owner_fields: Field) -> tuple[Field, ...]:
    """The properties of a grant on the resource that *owner_fields* name."""
    return (
        *owner_fields,
        PROJECT,
        text("role", required=True, force_new=True),
        text("member", required=True, force_new=True, ignore_case=True),
        block("condition", _CONDITION, force_new=True),
        text("etag", output=True),
    )


class IamMember(GcpResource):
    """A grant of one role to one member; the other members of the role stay as they are."""

    owner: ClassVar[str]  # the property that names the resource
    resource_noun: ClassVar[str]  # the resource, for error texts
    options_in_body: ClassVar[bool] = False

    def complete_inputs(self, config: Api, news: Properties) -> Properties:
        """The inputs with the provider's project and region, and the short name of the resource."""
        news = super().complete_inputs(config, news)
        if news.get("location") is None and config.config.region and "{location}" in self.id_format:
            news = {**news, "location": config.config.region}
        owner = news.get(self.owner)
        if isinstance(owner, str) and "/" in owner:
            match = re.fullmatch(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", self.id_format), owner)
            news = {**news, **(match.groupdict() if match else {self.owner: owner.rpartition("/")[2]})}
        return news

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> ResourceState:
        """Add the member to the policy, and confirm that the policy has it."""
        news = self.complete_inputs(config, news)
        if preview:
            return ResourceState("", {**news, "etag": UNKNOWN})
        address = self.address(news)
        with _locks[address]:
            self._change_policy(config, call, address, news, add=True)
        policy = self.read_policy(config, call, address)
        return ResourceState(self._member_id(address, news), self._grant_state(address, news, policy.get("etag", "")))

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
        """The new state, without a call: a change that doesn't replace the grant only spells it differently."""
        news = self.complete_inputs(config, news)
        return self._grant_state(self.address(news), news, olds.get("etag", ""))

    def read(self, config: Api, call: Call, resource_id: str, state: Properties) -> ResourceState | None:
        """Find the member in the policy."""
        grant = (
            self.complete_inputs(config, state) if state.get("member") else self._parse_import_id(config, resource_id)
        )
        address = self.address(grant)
        try:
            policy = self.read_policy(config, call, address)
        except ApiError as error:
            if error.is_not_found:
                return None
            raise
        binding = _find_binding(policy, grant, by_title=not state)
        member = next(
            (
                candidate
                for candidate in (binding or {}).get("members", [])
                if _is_same_member(candidate, grant["member"])
            ),
            None,
        )
        if binding is None or member is None:
            return None
        grant_state = self._grant_state(address, grant, policy.get("etag", ""))
        if not state:
            grant_state["member"] = member
        if binding.get("condition"):
            grant_state["condition"] = {key: value for key, value in binding["condition"].items() if value}
        return ResourceState(self._member_id(address, grant_state), grant_state)

    def delete(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """Remove the member from the policy, unless the resource, and so the policy, doesn't exist anymore."""
        olds = self.complete_inputs(config, olds)
        address = self.address(olds)
        try:
            with _locks[address]:
                self._change_policy(config, call, address, olds, add=False)
        except ApiError as error:
            if not error.is_not_found:
                raise

    def _change_policy(self, api: Api, call: Call, address: str, grant: Properties, *, add: bool) -> None:
        def attempt() -> None:
            policy = self.read_policy(api, call, address)
            changed = _add_member(policy, grant) if add else _remove_member(policy, grant)
            version = _POLICY_VERSION if add else policy.get("version", _POLICY_VERSION)
            self.write_policy(api, call, address, {**changed, "version": version})

        verb = "applying" if add else "removing"
        try:
            retry_conflicts(call, attempt)
            confirmations = 0
            while confirmations < _CONFIRMATIONS:
                binding = _find_binding(self.read_policy(api, call, address), grant)
                is_member = binding is not None and any(
                    _is_same_member(candidate, grant["member"]) for candidate in binding["members"]
                )
                if is_member == add:
                    confirmations += 1
                else:
                    call.wait(0.5)
        except ApiError as error:
            if error.is_not_found and not add:
                raise
            raise ProviderError(f"Error {verb} IAM policy for {self.resource_noun} {address!r}: {error}") from error

    def _grant_state(self, address: str, grant: Mapping[str, Any], etag: str) -> Properties:
        """The state of a grant, with the full name of the resource (the updaters' GetResourceId)."""
        return {**grant, self.owner: address, "etag": etag}

    def write_policy(self, api: Api, call: Call, address: str, policy: dict[str, Any]) -> None:
        """Replace the policy of the resource."""
        body: dict[str, Any] = {"policy": policy}
        if self.options_in_body:
            body["updateMask"] = "bindings,etag,auditConfigs"
        api.send(call, "POST", self.endpoint, f"{address}:setIamPolicy", body)

    def read_policy(self, api: Api, call: Call, address: str) -> dict[str, Any]:
        """The policy of the resource."""
        path = f"{address}:getIamPolicy"
        if self.options_in_body:
            body = {"options": {"requestedPolicyVersion": _POLICY_VERSION}}
            return api.send(call, "POST", self.endpoint, path, body)
        return api.send(call, "GET", self.endpoint, path)

    def _member_id(self, address: str, grant: Mapping[str, Any]) -> str:
        condition = as_dict(grant.get("condition"))
        parts = [address, grant["role"], grant["member"], condition.get("title", "")]
        return "/".join(part for part in parts if part)

    def _parse_import_id(self, api: Api, resource_id: str) -> Properties:
        """The grant in an import id: `RESOURCE ROLE MEMBER [CONDITION TITLE]`, or a member's id in the state."""
        match = re.fullmatch(rf"(?P<of>.+?)[ /](?P<role>{_ROLE})[ /](?P<member>[^ ]+)(?: (?P<title>.+))?", resource_id)
        if match is None:
            raise ProviderError(
                f"Wrong number of parts to Member id {resource_id!r}; expected 'resource_name role member "
                "[condition_title]'."
            )
        grant: Properties = {**self.parse_id(api, match["of"]), "role": match["role"], "member": match["member"]}
        if match["title"]:
            grant["condition"] = {"title": match["title"]}
        return grant


def _is_same_member(first: str, second: str) -> bool:
    return first.casefold() == second.casefold()


def _condition(grant: Mapping[str, Any]) -> dict[str, str]:
    condition = as_dict(grant.get("condition"))
    return {key: condition[key] for key in ("title", "description", "expression") if condition.get(key)}


def _find_binding(
    policy: Mapping[str, Any], grant: Mapping[str, Any], *, by_title: bool = False
) -> dict[str, Any] | None:
    condition = _condition(grant)
    for binding in map(as_dict, as_list(policy.get("bindings"))):
        binding_condition = _condition(binding)
        matches = (
            binding_condition.get("title") == condition.get("title") if by_title else binding_condition == condition
        )
        if binding.get("role") == grant["role"] and matches:
            return binding
    return None


def _add_member(policy: Mapping[str, Any], grant: Mapping[str, Any]) -> dict[str, Any]:
    bindings = [dict(as_dict(item)) for item in as_list(policy.get("bindings"))]
    binding = _find_binding({"bindings": bindings}, grant)
    if binding is None:
        condition = _condition(grant)
        bindings.append(
            {"role": grant["role"], "members": [grant["member"]], **({"condition": condition} if condition else {})}
        )
    elif not any(_is_same_member(item, grant["member"]) for item in binding["members"]):
        binding["members"] = sorted([*binding["members"], grant["member"]])
    return _policy_body(policy, bindings)


def _remove_member(policy: Mapping[str, Any], grant: Mapping[str, Any]) -> dict[str, Any]:
    bindings = [dict(as_dict(item)) for item in as_list(policy.get("bindings"))]
    binding = _find_binding({"bindings": bindings}, grant)
    if binding is not None:
        binding["members"] = [item for item in binding["members"] if not _is_same_member(item, grant["member"])]
    return _policy_body(policy, [item for item in bindings if item["members"]])


def _policy_body(policy: Mapping[str, Any], bindings: list[dict[str, Any]]) -> dict[str, Any]:
    body: dict[str, Any] = {"bindings": bindings} if bindings else {}
    return body | {key: policy[key] for key in ("etag", "auditConfigs") if policy.get(key)}


class RunServiceIamMember(IamMember):
    """A member of a role on a Cloud Run service."""

    type_name = "gcp:cloudrunv2/serviceIamMember:ServiceIamMember"
    fields = member_fields(
        text("name", force_new=True, autoname=255, equivalent=same_resource),
        text("location", computed=True, force_new=True),
    )
    endpoint = "cloudRunV2CustomEndpoint"
    id_format = "projects/{project}/locations/{location}/services/{name}"
    import_formats = ("{project}/{location}/{name}", "{location}/{name}", "{name}")
    owner = "name"
    resource_noun = "cloudrunv2 service"


class RepositoryIamMember(IamMember):
    """A member of a role on an Artifact Registry repository."""

    type_name = "gcp:artifactregistry/repositoryIamMember:RepositoryIamMember"
    fields = member_fields(owner_field("repository"), text("location", computed=True, force_new=True))
    endpoint = "artifactRegistryCustomEndpoint"
    id_format = "projects/{project}/locations/{location}/repositories/{repository}"
    import_formats = ("{project}/{location}/{repository}", "{location}/{repository}", "{repository}")
    owner = "repository"
    resource_noun = "artifactregistry repository"


class ProjectIamMember(IamMember):
    """A member of a role on a project; its ids begin with the project, without `projects/`."""

    type_name = "gcp:projects/iAMMember:IAMMember"
    fields = member_fields()
    endpoint = "resourceManagerCustomEndpoint"
    id_format = "projects/{project}"
    import_formats = ("{project}",)
    owner = "project"
    resource_noun = "project"
    options_in_body = True

    def _member_id(self, address: str, grant: Mapping[str, Any]) -> str:
        return super()._member_id(address.removeprefix("projects/"), grant)

    def _grant_state(self, address: str, grant: Mapping[str, Any], etag: str) -> Properties:
        return {**grant, "etag": etag}
