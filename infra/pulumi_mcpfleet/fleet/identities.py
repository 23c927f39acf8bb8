"""Types for principals, service accounts, secrets, organizations and OAuth settings."""

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator

from pulumi_mcpfleet.fleet import field_docs
from pulumi_mcpfleet.fleet.field_docs import FieldDoc, pattern
from pulumi_mcpfleet.fleet.values import matching

_ADDRESS: Final = r"[^\s@:,]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+"
_MEMBER: Final = (
    rf"(user|serviceAccount|group):{_ADDRESS}"
    r"|domain:[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+"
    r"|principal(Set)?://[A-Za-z0-9.-]+(/[^\s/]+)+"
)


def _check_member(value: str) -> str:
    if value in {"allUsers", "allAuthenticatedUsers"}:
        raise ValueError(
            f"{value} would let anybody call the server; name people, groups or accounts, such as group:team@acme.dev,"
            ' or say so by access: {public: {reason: "…"}}'
        )
    # IAM does not document a limit for the length of a member; any workforce identity fits into 2 KiB.
    if len(value) > 2048 or not re.fullmatch(_MEMBER, value):
        raise ValueError(
            f"{value[:200]!r} is not a principal; write user:ADDRESS, group:ADDRESS, serviceAccount:ADDRESS,"
            " domain:DOMAIN, principal://… or principalSet://…"
        )
    return value


Member = Annotated[
    str,
    AfterValidator(_check_member),
    FieldDoc(
        "principal",
        "principals",
        "`user:`, `group:`, `serviceAccount:` ADDRESS, `domain:` DOMAIN, `principal://…`, `principalSet://…`;"
        " never `allUsers`, `allAuthenticatedUsers`",
        pattern(_MEMBER),
    ),
]

_ACCOUNT: Final = r"[a-z0-9][a-z0-9.-]*@[a-z0-9.-]+\.[a-z]+"


def _check_account(value: str) -> str:
    if not re.fullmatch(_ACCOUNT, value) or len(value) > 320:
        raise ValueError(
            f"{value[:200]!r} is not a service account; write its address, NAME@PROJECT.iam.gserviceaccount.com"
        )
    if value.endswith(("-compute@developer.gserviceaccount.com", "@appspot.gserviceaccount.com")):
        raise ValueError(
            f"{value} is the project's default account, which other things use and which may edit the whole project;"
            " leave service_account out, or name an account made for this server"
        )
    return value


Account = Annotated[
    str,
    AfterValidator(_check_account),
    FieldDoc(
        "service account",
        "service accounts",
        "`NAME@PROJECT.iam.gserviceaccount.com`, not a project's default account",
        pattern(_ACCOUNT),
    ),
]

# Secret Manager: secret ids are letters, digits, - and _, at most 255 (projects.secrets.create).
_SECRET_FORM: Final = r"(projects/[a-z0-9:.-]+/secrets/)?[A-Za-z0-9_-]{1,255}"  # noqa: S105 - the form of its name
SecretName = Annotated[
    str,
    matching(_SECRET_FORM, "is not a secret's name; write NAME, or projects/P/secrets/NAME of another project"),
    FieldDoc("secret", "secrets", "`NAME`, or `projects/P/secrets/NAME`", pattern(_SECRET_FORM)),
]


def _number_to_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


SecretVersion = Annotated[
    str,
    BeforeValidator(_number_to_text),
    matching(
        r"[1-9][0-9]{0,9}|latest",
        'is not a version; write its number, such as "3" (latest follows every new version, without a new revision)',
    ),
    FieldDoc("version", "versions", 'a number, such as `"3"`, or `latest`', {"type": ["string", "integer"]}),
]

_ORGANIZATION: Final = r"[0-9]{6,20}"
Organization = Annotated[
    str,
    BeforeValidator(_number_to_text),
    matching(_ORGANIZATION, "is not an organization's number; find it by `gcloud projects get-ancestors PROJECT`"),
    FieldDoc("number", "numbers", "`gcloud projects get-ancestors PROJECT`", {"type": ["string", "integer"]}),
]

_CLIENT_ID: Final = r"[A-Za-z0-9-]+\.apps\.googleusercontent\.com"
OauthClientId = Annotated[
    str,
    matching(_CLIENT_ID, "is not an OAuth client; write its id, which ends in .apps.googleusercontent.com"),
    FieldDoc("OAuth client id", "OAuth client ids", "`….apps.googleusercontent.com`", pattern(_CLIENT_ID)),
]

_OIDC_CLIENT_ID: Final = r"[!-~]{1,256}"
OidcClientId = Annotated[
    str,
    matching(_OIDC_CLIENT_ID, "is not a client's ID; write it as the issuer shows it, without spaces"),
    FieldDoc("client id", "client ids", "as the issuer shows it", pattern(_OIDC_CLIENT_ID)),
]

_LOGIN_MEMBER: Final = rf"user:{_ADDRESS}|domain:[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+|group:[^\s,]{{1,254}}"
LoginMember = Annotated[
    str,
    matching(_LOGIN_MEMBER, "is not a member; write user:ADDRESS, domain:DOMAIN or group:NAME"),
    FieldDoc("member", "members", "`user:` ADDRESS, `domain:` DOMAIN, `group:` NAME", pattern(_LOGIN_MEMBER)),
]

_ISSUER: Final = r"https://[a-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*/?"
Issuer = Annotated[
    str,
    matching(_ISSUER, "is not an issuer; write its https:// URL as it stands in its tokens' iss, without query"),
    FieldDoc("issuer", "issuers", "an `https://` URL, as in the tokens' `iss`", pattern(_ISSUER)),
]

# RFC 6749, section 3.3, without the comma, because commas separate scopes in the container's environment variable.
_SCOPE: Final = r"[\x21\x23-\x2b\x2d-\x5b\x5d-\x7e]{1,256}"
Scope = Annotated[
    str,
    matching(_SCOPE, "is not a scope; write a word without spaces, quotes and commas, such as mcp:read"),
    FieldDoc("scope", "scopes", "words without spaces", pattern(_SCOPE)),
]


def _check_reason(value: str) -> str:
    return field_docs.check_reason(
        value,
        "why anybody on the internet may call this server; write for instance"
        ' "public documentation search, no private data"',
    )


Reason = Annotated[str, AfterValidator(_check_reason), FieldDoc("text", "texts", "one line of 10 to 256 characters")]
