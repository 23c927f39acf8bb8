"""Roles on the project for a fleet's accounts: a name, with a reason if the role allows privilege escalation.

A server takes requests from clients, so an attacker may mislead it. The damage then depends on what its account can do:
impersonate another account, change permissions, run code as another account, read every secret, replace images. Google
lists the permissions that allow this (cloud.google.com/iam/docs/best-practices-service-accounts, "Avoid letting users
become more privileged"; cloud.google.com/iam/docs/service-account-permissions), and the roles that have them
(cloud.google.com/iam/docs/roles-permissions).
"""

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Discriminator, Field, Tag

from pulumi_mcpfleet.fleet import field_docs
from pulumi_mcpfleet.fleet.base import Model
from pulumi_mcpfleet.fleet.field_docs import FieldDoc, pattern

_FORM: Final = r"roles/[a-zA-Z0-9_.]+|(projects|organizations)/[a-z0-9:.-]+/roles/[a-zA-Z0-9_.]+"
_REFUSED_ROLES: Final = frozenset({"roles/owner", "roles/editor"})

_RUNS_CODE: Final = (
    r"roles/(run\.(developer|sourceDeveloper|builder)|cloudfunctions\.developer|cloudbuild\.builds\.(editor|builder)"
    r"|deploymentmanager\.\w*[eE]ditor|compute\.(instanceAdmin\.v1|osAdminLogin|osLogin)|appengine\.deployer"
    r"|container\.(developer|nodeServiceAccount)|dataflow\.(developer|worker)|dataproc\.(editor|worker)"
    r"|composer\.(user|worker)|workflows\.editor|cloudscheduler\.jobRunner|notebooks\.\w*runner|batch\.jobsEditor"
    r"|cloudtasks\.enqueuer|ml\.developer|firebase\.develop\w*)"
)
_POWERFUL: Final = (
    (r"roles/viewer", "reads everything in the project"),
    (r"(projects|organizations)/.+", "is a custom role, whose permissions mcpfleet does not know"),
    (r"roles/iam\.(?!\w*[vV]iewer$).+", "can make its account another one, or change who may do what"),
    (r"roles/secretmanager\.secret(Accessor|VersionManager)", "reads or changes every secret of the project"),
    (r"roles/cloudkms\.\w*([dD]ecrypter|[sS]igner)\w*", "decrypts or signs with every key of the project"),
    (r"roles/artifactregistry\.\w*([wW]riter|Admin)", "replaces the images that run here"),
    (_RUNS_CODE, "runs code or sends requests as other accounts"),
    (r"roles/.+[sS]erviceAgent", "is meant for Google's own agents"),
    (r"roles/(.+[.])?\w*([aA]dmin|[oO]wner)(\.\w+)?", "administers a whole service, and mostly who may use it"),
)
"""Patterns of powerful roles, each with what such a role does. The first that matches the whole name applies."""


def describe_power(role: str) -> str | None:
    """Describe the power that *role* gives an account; None if the role is not known to be powerful."""
    return next((effect for form, effect in _POWERFUL if re.fullmatch(form, role)), None)


def _check_role(value: str) -> str:
    if not re.fullmatch(_FORM, value) or len(value) > 256:
        raise ValueError(f"{value[:200]!r} is not a role; write it as roles/bigquery.user, or projects/P/roles/NAME")
    if value in _REFUSED_ROLES:
        raise ValueError(
            f"{value} would give a server that takes requests from clients the whole project; name the roles of what"
            " it uses, such as roles/bigquery.user"
        )
    return value


def _check_plain_role(value: str) -> str:
    effect = describe_power(_check_role(value))
    if effect is not None:
        instead = "; a secret of its own goes into secrets instead" if "secretmanager" in value else ""
        raise ValueError(
            f"{value} {effect}, and an attacker who misleads the server could use that; take a lesser role{instead},"
            f" or say why it is"
            f' needed: {{role: {value}, reason: "…"}}'
        )
    return value


def _check_reason(value: str) -> str:
    return field_docs.check_reason(value, "what the server does with this role")


class PowerfulRole(Model):
    """A role that allows privilege escalation, with the reason why the server needs it."""

    role: Annotated[
        str,
        AfterValidator(_check_role),
        FieldDoc("role", "roles", "`roles/…`, `projects/P/roles/…`; not `roles/owner`, `roles/editor`", pattern(_FORM)),
    ] = Field(description="The role.", examples=["roles/pubsub.admin"])
    reason: Annotated[
        str, AfterValidator(_check_reason), FieldDoc("text", "texts", "one line of 10 to 256 characters")
    ] = Field(description="What the server does with it.", examples=["makes a topic for each tenant"])


def _find_form(value: Any) -> str:
    return "reasoned" if isinstance(value, (dict, PowerfulRole)) else "name"


PlainRole = Annotated[str, AfterValidator(_check_plain_role), FieldDoc("role", "roles", "", pattern(_FORM))]

Role = Annotated[
    Annotated[PlainRole, Tag("name")] | Annotated[PowerfulRole, Tag("reasoned")],
    Discriminator(_find_form),
    FieldDoc(
        "role",
        "[roles](#roles)",
        "`roles/…`; one that reaches beyond its own work, and `projects/P/roles/…`, with a reason",
    ),
]


def role_names(roles: tuple[str | PowerfulRole, ...]) -> tuple[str, ...]:
    """The names of *roles*, without duplicates."""
    return tuple(dict.fromkeys(role.role if isinstance(role, PowerfulRole) else role for role in roles))
