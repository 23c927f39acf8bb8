"""gcp:serviceaccount/account:Account (docs/google-apis.md 1.3), without the real provider's 10 s pause."""

from typing import Any, Final

from mcpfleet_local_cloud.plugins.call import Call, ProviderError
from mcpfleet_local_cloud.plugins.checking import Checker
from mcpfleet_local_cloud.plugins.diffing import plan
from mcpfleet_local_cloud.plugins.gcp.common import DELETION_POLICY, PROJECT
from mcpfleet_local_cloud.plugins.gcp.rest import RestResource
from mcpfleet_local_cloud.plugins.gcp.transport import Api, ApiError
from mcpfleet_local_cloud.plugins.properties import boolean, text
from mcpfleet_local_cloud.plugins.resources import Found
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
    id_form = "projects/{project}/serviceAccounts/{email}"
    import_forms = ("{project}/{email}", "{email}")
    title = "Service Account"

    def check_more(self, config: Api, inputs: Properties, checker: Checker) -> None:
        """An account id has 6 to 30 characters (validateRFC1035Name)."""
        account_id = inputs.get("accountId")
        if isinstance(account_id, str) and not _SHORTEST <= len(account_id) <= _LONGEST:
            checker.fail(
                "accountId",
                f'"account_id" ("{account_id}") must be between {_SHORTEST} and {_LONGEST} characters long',
            )

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> Found:
        """POST the account and read it until it is there."""
        news = self.complete(config, news)
        if preview:
            return Found("", self._previewed(config, news))
        project = news.get("project")
        if not project:
            raise ProviderError("project: required field is not set")
        account = {key: news[key] for key in ("displayName", "description") if news.get(key)}
        body = {"accountId": news["accountId"], "serviceAccount": account}
        path = f"projects/{project}/serviceAccounts"
        try:
            made = config.send(call, "POST", self.endpoint, path, body)
        except ApiError as error:
            if not error.exists_by_our_doing and not (error.code == 409 and news.get("createIgnoreAlreadyExists")):
                raise ProviderError(f"Error creating service account: {error}") from error
            email = f"{news['accountId']}@{_domain(str(project))}"
            made = self.get(config, call, f"{path}/{email}")
        for _ in range(_READS_AFTER_CREATE):
            made = self._reread(config, call, str(made["name"]))
        return Found(str(made["name"]), self._state(news, made))

    def change(self, config: Api, call: Call, resource_id: str, olds: Properties, planned: Properties) -> None:
        """Enable or disable it, and PATCH its texts."""
        now = self.get(config, call, resource_id)
        if bool(planned.get("disabled")) != bool(now.get("disabled")):
            verb = "disable" if planned.get("disabled") else "enable"
            config.send(call, "POST", self.endpoint, f"{resource_id}:{verb}", {})
        wanted = {key: planned.get(key) or "" for key in ("description", "displayName")}
        changed = [key for key, value in wanted.items() if value != (now.get(key) or "")]
        if changed:
            mask = [{"displayName": "display_name"}.get(key, key) for key in changed]
            body = {"serviceAccount": {**wanted, "etag": now.get("etag")}, "updateMask": ",".join(mask)}
            config.send(call, "PATCH", self.endpoint, resource_id, body)

    def _previewed(self, api: Api, news: Properties) -> Properties:
        """In the default universe the provider tells the address before the account exists; elsewhere it does not."""
        planned = plan(ACCOUNT, {}, news, unknown=True)
        known = api.config.universe == _DEFAULT_UNIVERSE and news.get("project") not in (None, UNKNOWN)
        if known and isinstance(news.get("accountId"), str):
            email = f"{news['accountId']}@{_domain(str(news['project']))}"
            planned |= {"email": email, "member": f"serviceAccount:{email}"}
        return planned

    def _reread(self, api: Api, call: Call, name: str) -> dict[str, Any]:
        """The account; one that is not visible yet is waited for."""
        while True:
            try:
                return self.get(api, call, name)
            except ApiError as error:
                if not error.missing:
                    raise
            call.wait(0.5)

    def _state(self, known: Properties, body: dict[str, Any]) -> Properties:
        email = str(body["email"])
        local = {one.name: known[one.name] for one in ACCOUNT if not one.wire and one.name in known}
        return {
            "deletionPolicy": "DELETE",
            **local,
            "accountId": email.partition("@")[0],
            "project": body.get("projectId") or known.get("project") or "",
            "email": email,
            "member": f"serviceAccount:{email}",
            "name": body["name"],
            "uniqueId": body.get("uniqueId", ""),
            "description": body.get("description", ""),
            "displayName": body.get("displayName", ""),
            "disabled": bool(body.get("disabled")),
        }


def _domain(project: str) -> str:
    return f"{project}.iam.gserviceaccount.com"
