"""gcp:serviceaccount/account:Account (docs/google-apis.md 1.3), without the real provider's 10 s pause."""

from typing import Any, Final

from mcpfleet_local_cloud.plugins.call import Call, ProviderError
from mcpfleet_local_cloud.plugins.checking import Checker
from mcpfleet_local_cloud.plugins.diffing import plan
from mcpfleet_local_cloud.plugins.gcp.common import DELETION_POLICY, PROJECT
from mcpfleet_local_cloud.plugins.gcp.rest import RestResource
from mcpfleet_local_cloud.plugins.gcp.transport import Api, ApiError
from mcpfleet_local_cloud.plugins.properties import boolean, text
from mcpfleet_local_cloud.plugins.resources import ResourceState
from mcpfleet_local_cloud.plugins.values import UNKNOWN, Properties

ACCOUNT: Final = (
    text("accountId", force_new=True, autoname=30),
    boolean("createIgnoreAlreadyExists", ""),
    DELETION_POLICY,
    text("description"),
    boolean("disabled"),
    text("displayName"),
    PROJECT,
    text("email", output=True),
    text("member", "", output=True),
    text("name", output=True),
    text("uniqueId", output=True),
)
_SHORTEST, _LONGEST = 6, 30
_READS_AFTER_CREATE: Final = 3
_DEFAULT_UNIVERSE: Final = "googleapis.com"


class Account(RestResource):
    """A service account."""

    type_name = "gcp:serviceaccount/account:Account"
    fields = ACCOUNT
    endpoint = "iamBetaCustomEndpoint"
    id_format = "projects/{project}/serviceAccounts/{email}"
    import_formats = ("{project}/{email}", "{email}")
    title = "Service Account"

    def check_rules(self, config: Api, inputs: Properties, checker: Checker) -> None:
        """An account id has 6 to 30 characters (validateRFC1035Name)."""
        account_id = inputs.get("accountId")
        if isinstance(account_id, str) and not _SHORTEST <= len(account_id) <= _LONGEST:
            checker.fail(
                "accountId",
                f'"account_id" ("{account_id}") must be between {_SHORTEST} and {_LONGEST} characters long',
            )

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> ResourceState:
        """POST the account, and read it until it is visible."""
        news = self.complete_inputs(config, news)
        if preview:
            return ResourceState("", self._preview(config, news))
        project = news.get("project")
        if not project:
            raise ProviderError("project: required field is not set")
        account = {key: news[key] for key in ("displayName", "description") if news.get(key)}
        body = {"accountId": news["accountId"], "serviceAccount": account}
        path = f"projects/{project}/serviceAccounts"
        try:
            created = config.send(call, "POST", self.endpoint, path, body)
        except ApiError as error:
            if not error.is_created_by_earlier_attempt and not (
                error.code == 409 and news.get("createIgnoreAlreadyExists")
            ):
                raise ProviderError(f"Error creating service account: {error}") from error
            email = f"{news['accountId']}@{_account_domain(str(project))}"
            created = self.get(config, call, f"{path}/{email}")
        for _ in range(_READS_AFTER_CREATE):
            created = self._wait_until_visible(config, call, str(created["name"]))
        return ResourceState(str(created["name"]), self._state(news, created))

    def send_update(self, config: Api, call: Call, resource_id: str, olds: Properties, planned: Properties) -> None:
        """Enable or disable the account, and PATCH its texts."""
        current = self.get(config, call, resource_id)
        if bool(planned.get("disabled")) != bool(current.get("disabled")):
            verb = "disable" if planned.get("disabled") else "enable"
            config.send(call, "POST", self.endpoint, f"{resource_id}:{verb}", {})
        texts = {key: planned.get(key) or "" for key in ("description", "displayName")}
        changed = [key for key, value in texts.items() if value != (current.get(key) or "")]
        if changed:
            mask = [{"displayName": "display_name"}.get(key, key) for key in changed]
            body = {"serviceAccount": {**texts, "etag": current.get("etag")}, "updateMask": ",".join(mask)}
            config.send(call, "PATCH", self.endpoint, resource_id, body)

    def _preview(self, api: Api, news: Properties) -> Properties:
        """The planned state; in the default universe, as with the real provider, it has the email address."""
        planned = plan(ACCOUNT, {}, news, unknown=True)
        is_known = api.config.universe == _DEFAULT_UNIVERSE and news.get("project") not in (None, UNKNOWN)
        if is_known and isinstance(news.get("accountId"), str):
            email = f"{news['accountId']}@{_account_domain(str(news['project']))}"
            planned |= {"email": email, "member": f"serviceAccount:{email}"}
        return planned

    def _wait_until_visible(self, api: Api, call: Call, name: str) -> dict[str, Any]:
        """The account, after waiting until it is visible."""
        while True:
            try:
                return self.get(api, call, name)
            except ApiError as error:
                if not error.is_not_found:
                    raise
            call.wait(0.5)

    def _state(self, prior: Properties, body: dict[str, Any]) -> Properties:
        email = str(body["email"])
        local = {field.name: prior[field.name] for field in ACCOUNT if not field.wire and field.name in prior}
        return {
            "deletionPolicy": "DELETE",
            **local,
            "accountId": email.partition("@")[0],
            "project": body.get("projectId") or prior.get("project") or "",
            "email": email,
            "member": f"serviceAccount:{email}",
            "name": body["name"],
            "uniqueId": body.get("uniqueId", ""),
            "description": body.get("description", ""),
            "displayName": body.get("displayName", ""),
            "disabled": bool(body.get("disabled")),
        }


def _account_domain(project: str) -> str:
    return f"{project}.iam.gserviceaccount.com"
