"""Who may call a server: a tagged union with one model for each kind of access. By default, no principal may call."""

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Discriminator, Field, Tag

from pulumi_mcpfleet.fleet import identities, values
from pulumi_mcpfleet.fleet.base import NO_REPEATS, Model, exactly_one_kind, kind_of
from pulumi_mcpfleet.fleet.field_docs import FieldDoc

KINDS: Final = ("iam", "iap", "oauth", "public")
CLIENT_KINDS: Final = ("iam", "iap", "public")
"""The kinds that Google checks in front of a service. With `oauth` the service itself checks, and only servers get the
settings for that."""


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
    | Annotated[OauthAccess, Tag("oauth")]
    | Annotated[PublicAccess, Tag("public")],
    Discriminator(_find_kind),
    exactly_one_kind("access", KINDS),
    FieldDoc("[access](#access)", "accesses", "one of `iam`, `iap`, `oauth`, `public`"),
]
"""The access to a server. The one key of the mapping is the kind: it decides who checks the caller."""


def _refuse_oauth(value: Any) -> Any:
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
