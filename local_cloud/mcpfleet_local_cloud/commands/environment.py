"""The exports that point Pulumi at the local cloud: what `./dev up` uses and `./dev env` prints.

The recipe makes no outbound call (docs/google-apis.md 2): a service-account file with a
universe domain of its own, every endpoint by environment, and the region check skipped.
"""

import shlex
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote

from mcpfleet_local_cloud.commands.background import CloudFolder

UNIVERSE: Final = "mcpfleet.test"
"""The local cloud's universe domain: the one word of a stack's config by which it is of this machine."""

PASSPHRASE: Final = "mcpfleet-local"  # noqa: S105
"""Encrypts the local stack's state; its salt is in the stack's config file. Whoever can read the state can read this:
nothing in the local stack is worth more than the machine that it runs on."""

# The provider's key → the path below the local cloud's URL (docs/google-apis.md 2.2).
_ENDPOINTS: Final[Mapping[str, str]] = {
    "ARTIFACT_REGISTRY": "artifactregistry/v1/",
    "CERTIFICATE_MANAGER": "certificatemanager/v1/",
    "CLOUD_BILLING": "billing/v1/",
    "COMPUTE": "compute/v1/",
    "CLOUD_BUILD": "cloudbuild/v1/",
    "CLOUD_RUN_V2": "run/v2/",
    "AGENT_REGISTRY": "agentregistry/v1/",
    "DNS": "dns/v1/",
    "IAP": "iap/v1/",
    "IAM_BETA": "iam/v1/",
    "IAM_CREDENTIALS": "iamcredentials/v1/",
    "NETWORK_SERVICES": "networkservices/v1/",
    "LOGGING": "logging/v2/",
    "RESOURCE_MANAGER": "crm/v1/",
    "SECRET_MANAGER": "secretmanager/v1/",
    "STORAGE": "storage/v1/",
    "SERVICE_USAGE": "serviceusage/v1beta1/",
}

# What a shell that works with Google may have set, and what would win over the local cloud's key file or project.
# The provider takes an empty value for none.
_NOT_OURS: Final = (
    "GCLOUD_KEYFILE_JSON",
    "GOOGLE_BILLING_PROJECT",
    "GOOGLE_CLOUD_KEYFILE_JSON",
    "GOOGLE_CREDENTIALS",
    "GOOGLE_IMPERSONATE_SERVICE_ACCOUNT",
    "GOOGLE_OAUTH_ACCESS_TOKEN",
    "GOOGLE_UNIVERSE_DOMAIN",
    "USER_PROJECT_OVERRIDE",
)


ATTACHMENT: Final = ("PULUMI_DEBUG_PROVIDERS", "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION")
"""By which the engine takes the emulated providers; a shell that is to use the real plugins may have them."""


def exports(place: CloudFolder, providers: str | None) -> dict[str, str]:
    """The variables that make plain `pulumi` work on the stack `local`.

    Args:
        place: Where the local cloud lives.
        providers: `PULUMI_DEBUG_PROVIDERS` of the emulated providers; None where the real plugins are used.
    """
    variables = {
        **dict.fromkeys(_NOT_OURS, ""),
        # A URL: Pulumi would take a `%`, `#` or `?` of the path for its own.
        "PULUMI_BACKEND_URL": f"file://{quote(str(place.state / 'pulumi'))}",
        "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_GCP_SKIP_REGION_VALIDATION": "true",
        "GOOGLE_APPLICATION_CREDENTIALS": str(place.credentials / "deployer.json"),
    }
    for key, path in _ENDPOINTS.items():
        variables[f"GOOGLE_{key}_CUSTOM_ENDPOINT"] = f"{place.url}/{path}"
    if providers is not None:
        # The engine would look for the real plugins' archives first, outside, for seconds, and then not use them.
        variables |= dict(zip(ATTACHMENT, (providers, "true"), strict=True))
    return variables


def shell(variables: Mapping[str, str]) -> str:
    """The variables as lines that a POSIX shell can evaluate."""
    return "\n".join(f"export {key}={shlex.quote(value)}" for key, value in sorted(variables.items()))


def unset(names: Iterable[str]) -> str:
    """A line by which a POSIX shell forgets the variables."""
    return f"unset {' '.join(names)}"
