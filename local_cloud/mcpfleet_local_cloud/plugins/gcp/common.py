"""What the gcp resource types share: ids in all their forms, labels, deletion rules."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, cast

from mcpfleet_local_cloud.plugins.call import ProviderError
from mcpfleet_local_cloud.plugins.gcp.transport import Api
from mcpfleet_local_cloud.plugins.properties import Field, text
from mcpfleet_local_cloud.plugins.resources import Resource
from mcpfleet_local_cloud.plugins.values import UNKNOWN, Properties, table

ATTRIBUTION: Final = "goog-pulumi-provisioned"
DELETION_POLICY: Final = text(
    "deletionPolicy", "", default="DELETE", implied=True, choices=("DELETE", "PREVENT", "ABANDON")
)
PROJECT: Final = text("project", "", computed=True, force_new=True)


class GcpResource(Resource[Api]):
    """A gcp resource type.

    Attributes:
        endpoint: the config key of its API's base URL.
        id_form: its id, with the properties in braces.
        import_forms: shorter ids that `pulumi import` takes besides; a missing project, location comes from config.
    """

    endpoint: ClassVar[str]
    id_form: ClassVar[str]
    import_forms: ClassVar[Sequence[str]] = ()

    def complete(self, config: Api, news: Properties) -> Properties:
        """The inputs with the provider's project (Terraform's DefaultProviderProject)."""
        settings = config.config
        if news.get("project") is None and settings.project and any(one.name == "project" for one in self.fields):
            return {**news, "project": settings.project}
        return news

    def address(self, properties: Mapping[str, Any]) -> str:
        """The id of the resource with these properties.

        Raises:
            ProviderError: a part is neither given nor configured.
        """
        names = re.findall(r"{(\w+)}", self.id_form)
        parts = {name: properties.get(name) for name in names}
        missing = [name for name, value in parts.items() if not value]
        if missing:
            raise ProviderError(f"{missing[0]}: required field is not set")
        return self.id_form.format(**parts)

    def parts(self, api: Api, resource_id: str) -> dict[str, str]:
        """The properties in an id, whichever form it has.

        Raises:
            ProviderError: it has none of the accepted forms.
        """
        forms = (self.id_form, *self.import_forms)
        for form in forms:
            pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(form))
            found = re.fullmatch(pattern, resource_id)
            if found:
                defaults = {"project": api.config.project, "location": api.config.region}
                wanted = set(re.findall(r"{(\w+)}", self.id_form))
                parts = {name: value for name, value in defaults.items() if name in wanted} | found.groupdict()
                return {name: value for name, value in parts.items() if value}
        accepted = ", ".join(form.replace("{", "{{").replace("}", "}}") for form in forms)
        raise ProviderError(f"Import id {resource_id!r} doesn't match any of the accepted formats: [{accepted}]")


def labels(api: Api, olds: Mapping[str, Any], news: Mapping[str, Any], *, attributed: bool = True) -> Properties:
    """The label properties that the inputs *news* plan (tpgresource.SetLabelsDiff).

    Labels that other tools put on the resource stay; the attribution label comes with creation and stays, where the
    type is *attributed* (the others: SetLabelsDiffWithoutAttributionLabel).
    """
    given = table(news.get("labels"))
    if news.get("labels") is UNKNOWN:
        return {"pulumiLabels": UNKNOWN, "effectiveLabels": UNKNOWN}
    before = table(olds.get("pulumiLabels"))
    provided: dict[str, Any] = {**api.config.default_labels}
    had = ATTRIBUTION in table(olds.get("effectiveLabels"))
    if attributed and api.config.attribution_label and (had or not olds):
        provided[ATTRIBUTION] = "true"
    provided |= given
    others = {key: value for key, value in table(olds.get("effectiveLabels")).items() if key not in before}
    return {"pulumiLabels": provided, "effectiveLabels": {**others, **provided}}


def annotations(olds: Mapping[str, Any], news: Mapping[str, Any]) -> Properties:
    """The annotations that the inputs plan: ours replaced, other tools' kept."""
    given = table(news.get("annotations"))
    if news.get("annotations") is UNKNOWN:
        return {"effectiveAnnotations": UNKNOWN}
    ours = table(olds.get("annotations"))
    others = {key: value for key, value in table(olds.get("effectiveAnnotations")).items() if key not in ours}
    return {"effectiveAnnotations": {**others, **given}}


def seen(name: str, planned: Mapping[str, Any], now: Mapping[str, str]) -> dict[str, str] | None:
    """Labels or annotations of ours that are still there; others' are none of the program's business."""
    ours = planned.get(name)
    if not isinstance(ours, Mapping):
        return None
    return {key: now[key] for key in cast("Mapping[str, str]", ours) if key in now}


def labelled(planned: Mapping[str, Any], body: Mapping[str, Any]) -> Properties:
    """The label properties of a resource as the API shows it; *planned* is what we know of it."""
    effective = dict(table(body.get("labels")))
    found: Properties = {"effectiveLabels": effective, "pulumiLabels": seen("pulumiLabels", planned, effective) or {}}
    mine = seen("labels", planned, effective)
    return found if mine is None else {**found, "labels": mine}


def may_delete(olds: Mapping[str, Any], what: str) -> bool:
    """Whether the API is to be asked to delete it; False abandons it.

    Raises:
        ProviderError: the deletion policy forbids it.
    """
    policy = olds.get("deletionPolicy")
    if policy == "PREVENT":
        raise ProviderError(f'cannot destroy {what} without setting deletion_policy="DELETE" and running `pulumi up`')
    return policy != "ABANDON"


def outputs(fields: Sequence[Field], properties: Properties) -> Properties:
    """*properties* with every output that the API left out, empty as Terraform's state has it."""
    empty: dict[str, Any] = {"string": "", "bool": False, "int": 0, "map": {}, "list": [], "blocks": []}
    missing = {one.name: empty[one.kind] for one in fields if one.output and one.name not in properties}
    return {**missing, **properties}
