"""Who may call a server: a tagged union with one model for each kind of access. By default, no principal may call."""

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationInfo, field_validator

from pulumi_mcpfleet.fleet import identities, values
from pulumi_mcpfleet.fleet.base import NO_REPEATS, Model, exactly_one_kind, kind_of
from pulumi_mcpfleet.fleet.field_docs import FieldDoc
from pulumi_mcpfleet.fleet.parts import SecretRef

KINDS: Final = ("iam", "iap", "login", "oauth", "public")
CLIENT_KINDS: Final = ("iam", "iap", "public")
"""The kinds that Google checks in front of a service. With `oauth` the service itself checks, and only servers get the
settings for that."""


GOOGLE_ISSUER: Final = "https://accounts.google.com"
"""The issuer of Google's ID tokens for people (developers.google.com/identity/openid-connect/openid-connect)."""


class Iam(Model):
    """Cloud Run's own check of the caller's Google ID token."""

    invokers: Annotated[tuple[identities.Member, ...], NO_REPEATS] = Field(
        default=(),
        max_length=1500,  # IAM's bound for the members of one policy
        description="The principals that may call the server; nobody else can.",
        examples=[["group:mcp-users@acme.dev", "serviceAccount:assistant@acme.iam.gserviceaccount.com"]],
    )


class IamAccess(Model):
    """Access for named Google identities."""

    iam: Annotated[Iam, FieldDoc("[iam](#access)", "")] = Field(
        description=("Cloud Run checks the caller's Google ID token, and IAM checks that the caller is an invoker."),
        examples=[{"invokers": ["user:ada@acme.dev"]}],
    )


class OauthClient(Model):
    """An OAuth client of your own, by which people log in in a browser."""

    client_id: identities.OauthClientId = Field(
        description="The client's ID.", examples=["4711-abc.apps.googleusercontent.com"]
    )
    secret: identities.SecretName = Field(
        description="The secret in Secret Manager that holds the client's secret.", examples=["iap-client"]
    )
    version: identities.SecretVersion = Field(description="The version of the secret.", examples=["1"])


class Iap(Model):
    """Identity-Aware Proxy in front of the service: people log in, and programs send a token."""

    members: Annotated[tuple[identities.Member, ...], NO_REPEATS] = Field(
        default=(),
        max_length=1500,
        description="The principals that IAP lets through; nobody else can call.",
        examples=[["group:mcp-users@acme.dev"]],
    )
    oauth_client: Annotated[OauthClient, FieldDoc("[oauth_client](#access)", "")] | None = Field(
        default=None,
        description=(
            "Your own OAuth client, with which IAP logs people in, instead of Google's. Required if"
            " the project is in no organization, or if `organization` is not set."
        ),
        examples=[{"client_id": "4711-abc.apps.googleusercontent.com", "secret": "iap-client", "version": "1"}],
    )
    programmatic_clients: Annotated[tuple[identities.OauthClientId, ...], NO_REPEATS] = Field(
        default=(),
        max_length=100,
        description=("OAuth clients whose ID tokens IAP accepts from programs. An MCP client needs one of them."),
        examples=[["4711-cli.apps.googleusercontent.com"]],
    )

    @property
    def program_audience(self) -> str | None:
        """The audience of a program's token.

        None if IAP accepts no such token, because Google's own OAuth client is only for browsers.
        """
        if self.programmatic_clients:
            return self.programmatic_clients[0]
        return self.oauth_client.client_id if self.oauth_client else None


class IapAccess(Model):
    """Access through Identity-Aware Proxy."""

    iap: Annotated[Iap, FieldDoc("[iap](#access)", "")] = Field(
        description="Identity-Aware Proxy in front of the service.",
        examples=[{"members": ["group:mcp-users@acme.dev"]}],
    )


class GoogleLogin(Model):
    """Login with Google accounts."""

    client: Annotated[OauthClient, FieldDoc("[client](#access)", "")] = Field(
        description=(
            "Your OAuth client of the type *Web application*. Its authorized redirect URIs must have the server's URL"
            " with `/oauth/callback`."
        ),
        examples=[{"client_id": "4711-abc.apps.googleusercontent.com", "secret": "mcp-oauth-client", "version": "1"}],
    )


class OidcClient(Model):
    """An OAuth client of your own at an OpenID Connect issuer."""

    client_id: identities.OidcClientId = Field(description="The client's ID.", examples=["mcp-weather"])
    secret: identities.SecretName = Field(
        description="The secret in Secret Manager that holds the client's secret.", examples=["mcp-oidc-client"]
    )
    version: identities.SecretVersion = Field(description="The version of the secret.", examples=["1"])


class OidcLogin(Model):
    """Login at an OpenID Connect issuer, such as Entra, Okta, Auth0 or Keycloak."""

    issuer: identities.Issuer = Field(
        description="The issuer, as its ID tokens name it.", examples=["https://login.acme.dev"]
    )
    client: Annotated[OidcClient, FieldDoc("[client](#access)", "")] = Field(
        description=("Your client there. Its redirect URIs must have the server's URL with `/oauth/callback`."),
        examples=[{"client_id": "mcp-weather", "secret": "mcp-oidc-client", "version": "1"}],
    )


_ONE_ISSUER: Final = "say where people log in: add google: {client: …}, or oidc: {issuer: …, client: …}"


class Login(Model):
    """Login for people: an OAuth 2.1 authorization server and a gate in front of the server, which needs no change."""

    google: Annotated[GoogleLogin, FieldDoc("[google](#access)", "")] | None = Field(
        default=None,
        description="People log in with Google. Write this or `oidc`.",
        examples=[
            {"client": {"client_id": "4711-abc.apps.googleusercontent.com", "secret": "mcp-oauth", "version": "1"}}
        ],
    )
    oidc: Annotated[OidcLogin, FieldDoc("[oidc](#access)", "")] | None = Field(
        default=None,
        validate_default=True,
        description="People log in at another OpenID Connect issuer.",
        examples=[
            {
                "issuer": "https://login.acme.dev",
                "client": {"client_id": "mcp-weather", "secret": "mcp-oidc-client", "version": "1"},
            }
        ],
    )
    members: Annotated[tuple[identities.LoginMember, ...], NO_REPEATS] = Field(
        default=(),
        max_length=500,
        description=(
            "The people who can use the server; nobody else can. `domain:` is the domain of a Google Workspace, and"
            " with `oidc` that of the verified address. `group:` is a value of the claim `groups`; only with `oidc`."
        ),
        examples=[["user:ada@acme.dev", "domain:acme.dev"]],
    )
    key: Annotated[SecretRef, FieldDoc("[version of a secret](#secrets)", "")] = Field(
        description=(
            "The secret that seals tokens: 32 random bytes in base64 (`openssl rand -base64 32`). Use one for each"
            " server. To rotate it, add a version with the new key in the first line and the old one in the second."
        ),
        examples=[{"secret": "weather-login-key", "version": "1"}],
    )
    registration: bool = Field(
        default=True,
        description=(
            "Whether clients can register themselves (RFC 7591). `false`: only clients with a metadata document can"
            " log in."
        ),
        examples=[False],
    )

    @property
    def issuer(self) -> str:
        """The issuer where people log in."""
        return self.oidc.issuer if self.oidc else GOOGLE_ISSUER

    @property
    def client(self) -> OauthClient | OidcClient:
        """The client there."""
        if self.oidc is not None:
            return self.oidc.client
        if self.google is None:
            raise ValueError(_ONE_ISSUER)  # the validator below has refused that
        return self.google.client

    @field_validator("oidc", mode="after")
    @classmethod
    def _require_one_issuer(cls, value: OidcLogin | None, info: ValidationInfo) -> OidcLogin | None:
        if "google" in info.data and (info.data["google"] is None) == (value is None):
            raise ValueError(_ONE_ISSUER if value is None else "write either google or oidc; remove one of them")
        return value

    @field_validator("members", mode="after")
    @classmethod
    def _refuse_groups_of_google(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        groups = [member for member in value if member.startswith("group:")]
        if groups and info.data.get("google") is not None:
            raise ValueError(
                f"{groups[0]} can't be checked: Google's ID tokens have no groups; write user:ADDRESS or domain:DOMAIN,"
                " or log people in with oidc, whose tokens have the claim groups"
            )
        return value


class LoginAccess(Model):
    """Access for people who log in, from any MCP client."""

    login: Annotated[Login, FieldDoc("[login](#access)", "")] = Field(
        description=(
            "People log in with OAuth from any MCP client, such as a web connector. A container in front of the server"
            " checks them; Cloud Run lets every caller through."
        ),
        examples=[
            {
                "google": {
                    "client": {"client_id": "4711-abc.apps.googleusercontent.com", "secret": "mcp", "version": "1"}
                },
                "members": ["domain:acme.dev"],
                "key": {"secret": "weather-login-key", "version": "1"},
            }
        ],
    )


class Oauth(Model):
    """OAuth 2, checked by the server itself as MCP specifies it (RFC 9728); Cloud Run lets every caller through."""

    issuer: identities.Issuer = Field(
        description="The authorization server whose tokens the server accepts.", examples=["https://login.acme.dev"]
    )
    audience: values.Audience | None = Field(
        default=None,
        description="The audience that every token must have. Default: the MCP URL.",
        examples=["https://mcp.acme.dev/mcp"],
    )
    scopes: Annotated[tuple[identities.Scope, ...], NO_REPEATS] = Field(
        default=(), max_length=50, description="Scopes that every token must have.", examples=[["mcp:use"]]
    )


class OauthAccess(Model):
    """Access with tokens of an authorization server, which the server checks."""

    oauth: Annotated[Oauth, FieldDoc("[oauth](#access)", "")] = Field(
        description="The server itself checks OAuth tokens; it must, because Cloud Run then checks nothing.",
        examples=[{"issuer": "https://login.acme.dev"}],
    )


class Public(Model):
    """Access for everyone on the internet, with the reason for it."""

    reason: identities.Reason = Field(
        description="Why everybody may call. It becomes an annotation of the service.",
        examples=["documentation search without private data"],
    )


class PublicAccess(Model):
    """Access for everyone."""

    public: Annotated[Public, FieldDoc("[public](#access)", "")] = Field(
        description="Anybody may call, without any identity.",
        examples=[{"reason": "documentation search without private data"}],
    )


def _find_kind(value: Any) -> str | None:
    return kind_of(value, KINDS)


def access_kind(access: "Access") -> str:
    """The kind of *access*, such as "iam"."""
    return str(_find_kind(access))


def public_reason(access: "Access") -> str | None:
    """The reason why everyone may call; None if not everyone may."""
    return access.public.reason if isinstance(access, PublicAccess) else None


def program_audience(access: "Access | ClientAccess") -> str | None:
    """The audience of a program's token for IAP; None if IAP accepts no such token or does not check this access."""
    return access.iap.program_audience if isinstance(access, IapAccess) else None


Access = Annotated[
    Annotated[IamAccess, Tag("iam")]
    | Annotated[IapAccess, Tag("iap")]
    | Annotated[LoginAccess, Tag("login")]
    | Annotated[OauthAccess, Tag("oauth")]
    | Annotated[PublicAccess, Tag("public")],
    Discriminator(_find_kind),
    exactly_one_kind("access", KINDS),
    FieldDoc("[access](#access)", "accesses", "one of `iam`, `iap`, `login`, `oauth`, `public`"),
]
"""The access to a server. The one key of the mapping is the kind: it decides who checks the caller."""


def _refuse_oauth(value: Any) -> Any:
    if kind_of(value, KINDS) == "login":
        raise ValueError(
            "with login people log in to an MCP server, and a client is none; write iap for people who log in, or iam"
        )
    if kind_of(value, KINDS) == "oauth":
        raise ValueError(
            "with oauth the service itself must check tokens, and a client gets no settings for it: anybody could call"
            " it, and through it its servers as its account; write iam, or iap for people who log in"
        )
    return value


ClientAccess = Annotated[
    Annotated[IamAccess, Tag("iam")] | Annotated[IapAccess, Tag("iap")] | Annotated[PublicAccess, Tag("public")],
    Discriminator(_find_kind),
    exactly_one_kind("access", CLIENT_KINDS),
    BeforeValidator(_refuse_oauth),
    FieldDoc("[access](#access)", "accesses", "one of `iam`, `iap`, `public`"),
]
"""The access to a client: only kinds that Google checks, because a client can be any app that listens."""
