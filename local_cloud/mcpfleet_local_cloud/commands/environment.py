"""The environment variables that point Pulumi at the local cloud: `./dev up` sets them and `./dev env` prints them.

With them the provider makes no outbound call (docs/google-apis.md 2): a service-account file with a universe domain of
its own, a custom endpoint for every API, and no region check.
"""

import shlex
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote

from mcpfleet_local_cloud.commands.background import CloudFolder

UNIVERSE: Final = "mcpfleet.test"
"""The local cloud's universe domain: a stack whose config has it is deployed to this machine."""

PASSPHRASE: Final = "mcpfleet-local"  # noqa: S105
"""Encrypts the local stack's state; its salt is in the stack's config file. It protects nothing from a reader of the
state, who can read this too: the local stack holds no secret beyond those of the machine that it runs on."""

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

# Variables that a user of Google Cloud may have set, and that would override the local cloud's key file or project.
# The provider treats an empty value as unset.
_CLEARED: Final = (
    "GCLOUD_KEYFILE_JSON",
    "GOOGLE_BILLING_PROJECT",
    "GOOGLE_CLOUD_KEYFILE_JSON",
    "GOOGLE_CREDENTIALS",
    "GOOGLE_IMPERSONATE_SERVICE_ACCOUNT",
    "GOOGLE_OAUTH_ACCESS_TOKEN",
    "GOOGLE_UNIVERSE_DOMAIN",
    "USER_PROJECT_OVERRIDE",
)


PROVIDER_VARIABLES: Final = ("PULUMI_DEBUG_PROVIDERS", "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION")
"""The variables by which the engine uses the emulated providers. With the real plugins they must be unset."""


def exports(folder: CloudFolder, providers: str | None) -> dict[str, str]:
    """The variables with which the plain `pulumi` command works on the local stack.

    Args:
        folder: The checkout folder of the local cloud.
        providers: `PULUMI_DEBUG_PROVIDERS` of the emulated providers; None to use the real plugins.
    """
    variables = {
        **dict.fromkeys(_CLEARED, ""),
        # It is a URL: a `%`, `#` or `?` in the path must be quoted.
        "PULUMI_BACKEND_URL": f"file://{quote(str(folder.state / 'pulumi'))}",
        "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_GCP_SKIP_REGION_VALIDATION": "true",
        "GOOGLE_APPLICATION_CREDENTIALS": str(folder.credentials / "deployer.json"),
    }
    for key, path in _ENDPOINTS.items():
        variables[f"GOOGLE_{key}_CUSTOM_ENDPOINT"] = f"{folder.url}/{path}"
    if providers is not None:
        # The engine would first look for the real plugins' archives on the network, for seconds, and then not use them.
        variables |= dict(zip(PROVIDER_VARIABLES, (providers, "true"), strict=True))
    return variables


def format_exports(variables: Mapping[str, str]) -> str:
    """Format the variables as `export` lines for a POSIX shell."""
    return "\n".join(f"export {key}={shlex.quote(value)}" for key, value in sorted(variables.items()))


def format_unset(names: Iterable[str]) -> str:
    """Format an `unset` line for a POSIX shell."""
    return f"unset {' '.join(names)}"
