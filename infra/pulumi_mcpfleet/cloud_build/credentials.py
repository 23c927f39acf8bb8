"""In whose name Google's APIs are called: found as the Google provider for Pulumi finds it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import google.auth
import google.oauth2.credentials
from google.auth import impersonated_credentials
from google.auth.exceptions import GoogleAuthError
from google.oauth2 import service_account

from pulumi_mcpfleet.cloud_build.errors import BuildError

SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
_KEYS: Final = ("GOOGLE_CREDENTIALS", "GOOGLE_CLOUD_KEYFILE_JSON", "GCLOUD_KEYFILE_JSON")


def find(environ: Mapping[str, str]) -> Any:
    """google-auth's credentials of whoever deploys.

    The stack's config (`gcp:accessToken`, `gcp:credentials`, `gcp:impersonateServiceAccount`) comes before the
    environment, as in the provider.

    Args:
        environ: The variables of this process; the engine puts the stack's config there.

    Raises:
        BuildError: There are none.
    """
    config = _config(environ)
    token = config.get("gcp:accessToken") or environ.get("GOOGLE_OAUTH_ACCESS_TOKEN")
    key = config.get("gcp:credentials") or next((environ[name] for name in _KEYS if environ.get(name)), "")
    try:
        found = _of(token, key)
        account = config.get("gcp:impersonateServiceAccount") or environ.get("GOOGLE_IMPERSONATE_SERVICE_ACCOUNT")
        if account:
            found = impersonated_credentials.Credentials(found, account, [SCOPE])
    except (GoogleAuthError, OSError, ValueError) as error:
        raise BuildError(
            f"no credentials for Google Cloud: {error}. Log in with gcloud auth application-default login, or set"
            " GOOGLE_APPLICATION_CREDENTIALS"
        ) from None
    return found


def _of(token: str | None, key: str) -> Any:
    if token:
        return google.oauth2.credentials.Credentials(token)  # pyright: ignore[reportNoUntypedCall]
    if not key:
        load: Any = google.auth
        return load.default(scopes=[SCOPE])[0]
    text = key if key.lstrip().startswith("{") else Path(key).expanduser().read_text(encoding="utf-8")
    read: Any = json.loads(text)
    info = cast("dict[str, Any]", read) if isinstance(read, dict) else {}
    account: Any = service_account.Credentials
    person: Any = google.oauth2.credentials.Credentials
    kinds: dict[str, Any] = {
        "service_account": account.from_service_account_info,
        "authorized_user": person.from_authorized_user_info,
    }
    kind = str(info.get("type"))
    if kind not in kinds:
        raise ValueError(f"a key of the type {kind} is read from GOOGLE_APPLICATION_CREDENTIALS alone")
    return kinds[kind](info, scopes=[SCOPE])


def _config(environ: Mapping[str, str]) -> dict[str, str]:
    try:
        found = json.loads(environ.get("PULUMI_CONFIG") or "{}")
    except ValueError:
        return {}
    return cast("dict[str, str]", found) if isinstance(found, dict) else {}
