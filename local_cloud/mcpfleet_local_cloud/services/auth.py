"""Authentication and authorization for every API.

Callers send a bearer token, as Google's clients do: a JWT that a service account signed with its own key (google-auth
with a credential of another universe; aip.dev/auth/4111), or an access token of this cloud. The error texts are
Google's, so that a client reacts as it does there. The `ErrorInfo` metadata adds the cause, which Google does not
return.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request

from mcpfleet_local_cloud.identity.policy import Policies, is_service_agent
from mcpfleet_local_cloud.identity.principals import Principal
from mcpfleet_local_cloud.identity.tokens import Identity, TokenError, jws
from mcpfleet_local_cloud.rest.errors import GoogleError
from mcpfleet_local_cloud.rest.message_parser import METHOD
from mcpfleet_local_cloud.rest.schemas import SCOPE_PREFIX, Method
from mcpfleet_local_cloud.services.iam.model import ServiceAccounts
from mcpfleet_local_cloud.services.iam.pools import Pools
from mcpfleet_local_cloud.services.oauth import People
from mcpfleet_local_cloud.services.resourcemanager.model import Projects
from mcpfleet_local_cloud.services.serviceusage.model import TITLES, ServiceUsage
from mcpfleet_local_cloud.state.folder import Settings
from mcpfleet_local_cloud.state.store import Document

CLOUD_PLATFORM: Final = SCOPE_PREFIX + "cloud-platform"
IAM: Final = SCOPE_PREFIX + "iam"
"""The scope for IAM only; client libraries request it to impersonate a service account."""
_CLOUD_PLATFORM_ONLY: Final = frozenset({CLOUD_PLATFORM})
# Google refuses a self-signed token with a longer lifetime.
_MAX_LIFETIME_SECONDS: Final = 3600
_HELP: Final = (
    "Expected OAuth 2 access token, login cookie or other valid authentication credential. "
    "See https://developers.google.com/identity/sign-in/web/devconsole-project."
)


@dataclass(frozen=True)
class Caller:
    """An authenticated principal."""

    email: str
    """The e-mail address; a `Principal` for a federated identity."""


class ApiAuthorizer:
    """Authenticates the callers of every API and checks their permissions."""

    def __init__(
        self,
        *,
        settings: Settings,
        identity: Identity,
        accounts: ServiceAccounts,
        people: People,
        pools: Pools,
        policies: Policies,
        projects: Projects,
        usage: ServiceUsage,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._accounts = accounts
        self._people = people
        self._pools = pools
        self._policies = policies
        self._projects = projects
        self._usage = usage
        self._clock = clock

    def authenticate(self, request: Request, extra_scopes: frozenset[str] = frozenset()) -> Caller:
        """Identify the sender of *request*; the token needs one of the scopes of the method, or of *extra_scopes*.

        Raises:
            GoogleError: UNAUTHENTICATED; PERMISSION_DENIED if the token has none of the scopes.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise GoogleError(
                "UNAUTHENTICATED",
                f"Request is missing required authentication credential. {_HELP}",
                reason="CREDENTIALS_MISSING",
            )
        method: Method | None = request.scope.get(METHOD)
        scopes = (method.scopes if method else frozenset[str]()) | _CLOUD_PLATFORM_ONLY | extra_scopes
        caller = self.authenticate_token(token.strip(), scopes)
        request.state.caller = caller.email
        return caller

    def authenticate_token(self, token: str, scopes: frozenset[str] = _CLOUD_PLATFORM_ONLY) -> Caller:
        """Identify the owner of a bearer *token*, which needs one of *scopes*.

        Raises:
            GoogleError: as for `authenticate`.
        """
        try:
            email, granted = self._identify_principal(token)
        except TokenError as refusal:
            raise _unauthenticated("ACCESS_TOKEN_TYPE_UNSUPPORTED", str(refusal)) from refusal
        if not granted & scopes:
            raise GoogleError(
                "PERMISSION_DENIED",
                "Request had insufficient authentication scopes.",
                reason="ACCESS_TOKEN_SCOPE_INSUFFICIENT",
            )
        if isinstance(email, Principal):
            if not self._pools.is_active(email.pool):
                raise _unauthenticated("ACCOUNT_STATE_INVALID", f"the pool {email.pool} is disabled or deleted")
            return Caller(email)
        account = self._accounts.get(email)
        if account is not None and account.get("disabled"):
            raise _unauthenticated("ACCOUNT_STATE_INVALID", f"the service account {email} is disabled")
        if account is None and not self._people.exists(email) and not is_service_agent(email):
            raise _unauthenticated("ACCOUNT_STATE_INVALID", f"there is no account {email}")
        return Caller(email)

    def require(self, caller: Caller, permission: str, resource: str) -> None:
        """Require that *caller* has *permission* on *resource* (its full name).

        Raises:
            GoogleError: PERMISSION_DENIED.
        """
        if self._policies.allows(caller.email, permission, self._with_project_id(resource)):
            return
        raise GoogleError(
            "PERMISSION_DENIED",
            f"Permission '{permission}' denied on resource '{resource}' (or it may not exist).",
            reason="IAM_PERMISSION_DENIED",
            metadata={"permission": permission, "resource": resource},
            domain="iam.googleapis.com",
        )

    def require_api(self, project: str, api: str) -> None:
        """Require that *project* (id or number) has *api* enabled.

        Raises:
            GoogleError: PERMISSION_DENIED, reason SERVICE_DISABLED.
        """
        project_document = self.find_project(project)
        if self._usage.is_enabled(project_document, api):
            return
        number, title = project_document["projectNumber"], TITLES.get(api, api)
        activation_url = f"https://console.developers.google.com/apis/api/{api}/overview?project={number}"
        raise GoogleError(
            "PERMISSION_DENIED",
            f"{title} has not been used in project {number} before or it is disabled. Enable it by visiting "
            f"{activation_url} then retry. If you enabled this API recently, wait a few minutes for the action to "
            "propagate to our systems and retry.",
            reason="SERVICE_DISABLED",
            metadata={
                "service": api,
                "serviceTitle": title,
                "consumer": f"projects/{number}",
                "containerInfo": number,
                "activationUrl": activation_url,
            },
        )

    def find_project(self, id_or_number: str) -> Document:
        """Return the project `{projectId, projectNumber, …}`.

        Raises:
            GoogleError: PERMISSION_DENIED: there is no such project.
        """
        return self._projects.get(id_or_number)

    def _identify_principal(self, token: str) -> tuple[str, frozenset[str]]:
        if token.startswith("ya29."):
            access = self._identity.decode_access_token(token)
            return access.email, access.scopes
        claims = self._accounts.verify_signed(token, self._clock())
        email = claims["iss"]
        if claims.get("sub", email) != email:
            raise TokenError("a service account may sign only for itself")
        if claims["exp"] - claims["iat"] > _MAX_LIFETIME_SECONDS + jws.CLOCK_SKEW:
            raise TokenError("a self-signed token may be valid for one hour at most")
        audience, scope = claims.get("aud") or "", claims.get("scope") or ""
        if not isinstance(audience, str) or not isinstance(scope, str):
            raise TokenError("aud and scope must be strings")
        if audience and not self._is_api_audience(audience):
            raise TokenError(f"the token is for {audience}")
        if not audience and not scope:
            raise TokenError("a self-signed token needs an audience or a scope")
        return email, _CLOUD_PLATFORM_ONLY if audience else frozenset(scope.split())

    def _is_api_audience(self, audience: str) -> bool:
        # An audience names an API's root: https://run.googleapis.com/ in Google's universe (aip.dev/auth/4111).
        if audience.rstrip("/") == self._settings.url:
            return True
        parts = urlsplit(audience)
        host = parts.hostname or ""
        is_cloud_host = host.endswith((f".{self._settings.universe}", ".googleapis.com"))
        return parts.scheme == "https" and is_cloud_host and parts.path in {"", "/"}

    def _with_project_id(self, resource: str) -> str:
        # Policies are stored under the project's id, but callers may send its number.
        parts = resource.split("/")
        if parts[0] == "projects" and len(parts) > 1 and parts[1].isdecimal():
            parts[1] = self.find_project(parts[1])["projectId"]
        return "/".join(parts)


def _unauthenticated(reason: str, detail: str) -> GoogleError:
    return GoogleError(
        "UNAUTHENTICATED",
        f"Request had invalid authentication credentials. {_HELP}",
        reason=reason,
        metadata={"why": detail},
    )
