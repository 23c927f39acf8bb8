"""The base class and helpers of all gcp resource types: id formats, labels and deletion policies."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, cast

from mcpfleet_local_cloud.plugins.call import ProviderError
from mcpfleet_local_cloud.plugins.gcp.transport import Api
from mcpfleet_local_cloud.plugins.properties import Field, text
from mcpfleet_local_cloud.plugins.resources import Resource
from mcpfleet_local_cloud.plugins.values import UNKNOWN, Properties, as_dict

ATTRIBUTION_LABEL: Final = "goog-pulumi-provisioned"
DELETION_POLICY: Final = text(
    "deletionPolicy", "", default="DELETE", implied=True, choices=("DELETE", "PREVENT", "ABANDON")
)
PROJECT: Final = text("project", "", computed=True, force_new=True)


class GcpResource(Resource[Api]):
    """A gcp resource type.

    Attributes:
        endpoint: the config key of the API's base URL.
        id_format: the id, with property names in braces.
        import_formats: shorter ids that `pulumi import` accepts too; config has the missing project or location.
    """

    endpoint: ClassVar[str]
    id_format: ClassVar[str]
    import_formats: ClassVar[Sequence[str]] = ()

    def complete_inputs(self, config: Api, news: Properties) -> Properties:
        """The inputs with the provider's project (Terraform's DefaultProviderProject)."""
        settings = config.config
        if news.get("project") is None and settings.project and any(field.name == "project" for field in self.fields):
            return {**news, "project": settings.project}
        return news

    def address(self, properties: Mapping[str, Any]) -> str:
        """The id of the resource with these properties.

        Raises:
            ProviderError: a part of the id is neither set nor configured.
        """
        names = re.findall(r"{(\w+)}", self.id_format)
        parts = {name: properties.get(name) for name in names}
        missing = [name for name, value in parts.items() if not value]
        if missing:
            raise ProviderError(f"{missing[0]}: required field is not set")
        return self.id_format.format(**parts)

    def parse_id(self, api: Api, resource_id: str) -> dict[str, str]:
        """The properties in an id of any accepted format.

        Raises:
            ProviderError: the id has none of the accepted formats.
        """
        formats = (self.id_format, *self.import_formats)
        for id_format in formats:
            pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(id_format))
            match = re.fullmatch(pattern, resource_id)
            if match:
                defaults = {"project": api.config.project, "location": api.config.region}
                names = set(re.findall(r"{(\w+)}", self.id_format))
                parts = {name: value for name, value in defaults.items() if name in names} | match.groupdict()
                return {name: value for name, value in parts.items() if value}
        accepted = ", ".join(id_format.replace("{", "{{").replace("}", "}}") for id_format in formats)
        raise ProviderError(f"Import id {resource_id!r} doesn't match any of the accepted formats: [{accepted}]")


def plan_labels(
    api: Api, olds: Mapping[str, Any], news: Mapping[str, Any], *, has_attribution_label: bool = True
) -> Properties:
    """The planned label properties for the inputs *news* (tpgresource.SetLabelsDiff).

    Labels that other tools added are kept. With *has_attribution_label*, a resource gets that label when it is created
    and keeps it (without: SetLabelsDiffWithoutAttributionLabel).
    """
    configured = as_dict(news.get("labels"))
    if news.get("labels") is UNKNOWN:
        return {"pulumiLabels": UNKNOWN, "effectiveLabels": UNKNOWN}
    old_labels = as_dict(olds.get("pulumiLabels"))
    provided: dict[str, Any] = {**api.config.default_labels}
    had_attribution = ATTRIBUTION_LABEL in as_dict(olds.get("effectiveLabels"))
    if has_attribution_label and api.config.attribution_label and (had_attribution or not olds):
        provided[ATTRIBUTION_LABEL] = "true"
    provided |= configured
    others = {key: value for key, value in as_dict(olds.get("effectiveLabels")).items() if key not in old_labels}
    return {"pulumiLabels": provided, "effectiveLabels": {**others, **provided}}


def plan_annotations(olds: Mapping[str, Any], news: Mapping[str, Any]) -> Properties:
    """The planned annotations: replaces those of the program, and keeps those of other tools."""
    configured = as_dict(news.get("annotations"))
    if news.get("annotations") is UNKNOWN:
        return {"effectiveAnnotations": UNKNOWN}
    old_annotations = as_dict(olds.get("annotations"))
    others = {
        key: value for key, value in as_dict(olds.get("effectiveAnnotations")).items() if key not in old_annotations
    }
    return {"effectiveAnnotations": {**others, **configured}}


def select_managed(name: str, planned: Mapping[str, Any], current: Mapping[str, str]) -> dict[str, str] | None:
    """The *current* labels or annotations whose keys *planned* sets in the property *name*; None if it sets none."""
    managed = planned.get(name)
    if not isinstance(managed, Mapping):
        return None
    return {key: current[key] for key in cast("Mapping[str, str]", managed) if key in current}


def read_labels(planned: Mapping[str, Any], body: Mapping[str, Any]) -> Properties:
    """The label properties of a resource from its document *body* and the state *planned*."""
    effective = dict(as_dict(body.get("labels")))
    properties: Properties = {
        "effectiveLabels": effective,
        "pulumiLabels": select_managed("pulumiLabels", planned, effective) or {},
    }
    configured = select_managed("labels", planned, effective)
    return properties if configured is None else {**properties, "labels": configured}


def should_delete(olds: Mapping[str, Any], resource_name: str) -> bool:
    """Whether to delete the resource on the cloud; False only removes it from the state.

    Raises:
        ProviderError: the deletion policy forbids it.
    """
    policy = olds.get("deletionPolicy")
    if policy == "PREVENT":
        raise ProviderError(
            f'cannot destroy {resource_name} without setting deletion_policy="DELETE" and running `pulumi up`'
        )
    return policy != "ABANDON"


def fill_outputs(fields: Sequence[Field], properties: Properties) -> Properties:
    """*properties*, with an empty value for every output that the API omitted, as in Terraform's state."""
    empty: dict[str, Any] = {"string": "", "bool": False, "int": 0, "map": {}, "list": [], "blocks": []}
    missing = {field.name: empty[field.kind] for field in fields if field.output and field.name not in properties}
    return {**missing, **properties}
