"""The gcp provider's configuration: keys, environment variables and their checks (docs/google-apis.md 2)."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mcpfleet_local_cloud.plugins.call import CheckFailure, ProviderError
from mcpfleet_local_cloud.plugins.gcp.credentials import Credentials, load
from mcpfleet_local_cloud.plugins.values import UNKNOWN, Properties

KEYS: Final = frozenset(
    [
        "accessToken",
        "addPulumiAttributionLabel",
        "batching",
        "billingProject",
        "credentials",
        "defaultLabels",
        "deletionPolicy",
        "disableGooglePartnerName",
        "externalCredentials",
        "googlePartnerName",
        "impersonateServiceAccount",
        "impersonateServiceAccountDelegates",
        "pollInterval",
        "preferGlobalEndpoints",
        "preferRegionalEndpoints",
        "project",
        "pulumiAttributionLabelAdditionStrategy",
        "region",
        "requestReason",
        "requestTimeout",
        "scopes",
        "skipRegionValidation",
        "universeDomain",
        "userProjectOverride",
        "zone",
        "disableGlobalProjectWarning",
        "version",
        "pluginDownloadURL",
        "__internal",
    ]
)
_ENDPOINT_KEY: Final = re.compile(r"[a-zA-Z0-9]+CustomEndpoint")
_ENDPOINT_URL: Final = re.compile(r".*/[^/]+/$")
_VARIABLES: Final = {
    "project": ("GOOGLE_PROJECT", "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT"),
    "region": ("GOOGLE_REGION", "GCLOUD_REGION", "CLOUDSDK_COMPUTE_REGION"),
    "zone": ("GOOGLE_ZONE", "GCLOUD_ZONE", "CLOUDSDK_COMPUTE_ZONE"),
    "universeDomain": ("GOOGLE_UNIVERSE_DOMAIN",),
    "credentials": ("GOOGLE_CREDENTIALS", "GOOGLE_CLOUD_KEYFILE_JSON", "GCLOUD_KEYFILE_JSON"),
    "accessToken": ("GOOGLE_OAUTH_ACCESS_TOKEN",),
}
_DEFAULT_UNIVERSE: Final = "googleapis.com"
_UNSUPPORTED_KEYS: Final = ("impersonateServiceAccount", "externalCredentials")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A configured gcp provider.

    Attributes:
        endpoints: base URLs by config key (`cloudRunV2CustomEndpoint`).
        poll_interval: the maximum number of seconds between two polls of an operation.
        attribution_label: whether new resources get the label `goog-pulumi-provisioned`.
    """

    project: str = ""
    region: str = ""
    zone: str = ""
    universe: str = _DEFAULT_UNIVERSE
    credentials: Credentials
    endpoints: Mapping[str, str] = field(default_factory=dict[str, str])
    poll_interval: float = 10.0
    attribution_label: bool = True
    default_labels: Mapping[str, str] = field(default_factory=dict[str, str])
    user_project: str = ""

    def endpoint(self, key: str) -> str:
        """The base URL of one API.

        Raises:
            ProviderError: no base URL is set, so that the call would go to Google.
        """
        url = self.endpoints.get(key)
        if not url:
            raise ProviderError(
                f"no endpoint is set for this API, and the emulated provider never calls Google: set gcp:{key} or "
                f"{environment_variable(key)} to the local cloud's base URL"
            )
        return url


def environment_variable(key: str) -> str:
    """The environment variable of an endpoint key: cloudRunV2CustomEndpoint -> GOOGLE_CLOUD_RUN_V2_CUSTOM_ENDPOINT."""
    return f"GOOGLE_{snake_case(key).upper()}"


def snake_case(key: str) -> str:
    """A key in Terraform's spelling."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower()


def check(name: str, news: Properties) -> list[CheckFailure]:
    """All mistakes in a provider's configuration, with the messages of the Terraform bridge."""
    explicit = not name.startswith("default")
    failures: list[CheckFailure] = []
    for key, value in news.items():
        if key not in KEYS and not _ENDPOINT_KEY.fullmatch(key):
            hint = f"Examine values at '{name}.{key}'" if explicit else f"Check `pulumi config get gcp:{key}`"
            failures.append(CheckFailure(f"could not validate provider configuration: Invalid or unknown key. {hint}."))
        elif _ENDPOINT_KEY.fullmatch(key) and value is not UNKNOWN and not _ENDPOINT_URL.fullmatch(str(value)):
            failures.append(
                CheckFailure(f"could not validate provider configuration: {_invalid_endpoint_message(key, value)}")
            )
    return failures


def _invalid_endpoint_message(key: str, value: Any) -> str:
    return f'"{snake_case(key)}" ("{value}") doesn\'t match regexp ".*/[^/]+/$" (it must end with a slash)'


def configure(news: Properties, environment: Mapping[str, str] = os.environ) -> Config:
    """The provider's configuration from stack config and environment variables; stack config takes precedence.

    Raises:
        ProviderError: credentials can't be read or belong to another universe, or an endpoint is not a base URL.
    """

    def setting(key: str) -> str:
        value = news.get(key)
        if isinstance(value, str) and value:
            return value
        return next((environment[name] for name in _VARIABLES.get(key, ()) if environment.get(name)), "")

    for key in _UNSUPPORTED_KEYS:
        if news.get(key):
            raise ProviderError(
                f"gcp:{key}: the emulated provider does not have this setting; remove it from this stack"
            )
    universe = setting("universeDomain")
    credentials = load(setting("credentials"), setting("accessToken"), environment)
    _check_universe(universe, credentials)
    return Config(
        project=setting("project"),
        region=setting("region"),
        zone=setting("zone"),
        universe=universe or _DEFAULT_UNIVERSE,
        credentials=credentials,
        endpoints=_read_endpoints(news, environment),
        poll_interval=_parse_seconds(news.get("pollInterval"), 10.0),
        attribution_label=_parse_boolean(news.get("addPulumiAttributionLabel"), default=True),
        default_labels=_parse_object(news.get("defaultLabels")),
        user_project=str(news.get("billingProject") or "") if _parse_boolean(news.get("userProjectOverride")) else "",
    )


def _check_universe(configured: str, credentials: Credentials) -> None:
    """Check the universe as TPG provider.go does; an access token's universe is unknown, and not checked."""
    if credentials.kind == "token":
        return
    actual = credentials.universe
    if configured and not actual and configured != _DEFAULT_UNIVERSE:
        raise ProviderError(
            f"Universe domain mismatch: '{configured}' supplied directly to Terraform with no matching universe domain "
            "in credentials. Credentials with no 'universe_domain' set are assumed to be in the default universe."
        )
    if configured and configured != (actual or _DEFAULT_UNIVERSE):
        raise ProviderError(
            f"Universe domain mismatch: '{actual}' does not match the universe domain '{configured}' supplied directly "
            "to Terraform. The 'universe_domain' provider configuration must match the universe domain supplied by "
            "credentials."
        )
    if not configured and actual not in ("", _DEFAULT_UNIVERSE):
        raise ProviderError(
            f"Universe domain mismatch: Universe domain '{actual}' was found in credentials without a corresponding "
            f"'universe_domain' provider configuration set. Please set 'universe_domain' to '{actual}' "
            "(gcp:universeDomain) or use different credentials."
        )


def _read_endpoints(news: Properties, environment: Mapping[str, str]) -> dict[str, str]:
    endpoints: dict[str, str] = {}
    for name, value in environment.items():
        if name.startswith("GOOGLE_") and name.endswith("_CUSTOM_ENDPOINT") and value:
            endpoints[_camel_case(name.removeprefix("GOOGLE_"))] = value
    endpoints |= {key: str(value) for key, value in news.items() if _ENDPOINT_KEY.fullmatch(key) and value}
    for key, value in endpoints.items():
        if not _ENDPOINT_URL.fullmatch(value):
            raise ProviderError(_invalid_endpoint_message(key, value))
    return endpoints


def _camel_case(name: str) -> str:
    first, *rest = name.lower().split("_")
    return first + "".join(word.capitalize() for word in rest)


def _parse_boolean(value: Any, *, default: bool = False) -> bool:
    return default if value is None else value in (True, "true")


def _parse_object(value: Any) -> dict[str, Any]:
    """The value of a nested setting, which stack config has as JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ProviderError(f"gcp:defaultLabels is not a JSON object: {value}") from None
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]  JSON from outside


def _parse_seconds(value: Any, default: float) -> float:
    """The seconds of a Go duration such as `1s`, `500ms` or `1m30s`."""
    if value in (None, ""):
        return default
    parts = re.findall(r"([0-9.]+)(ms|s|m|h)", str(value))
    if not parts or "".join(amount + unit for amount, unit in parts) != str(value):
        raise ProviderError(f"gcp:pollInterval: time: invalid duration {str(value)!r} (write it as in 1s or 500ms)")
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(float(amount) * units[unit] for amount, unit in parts)
