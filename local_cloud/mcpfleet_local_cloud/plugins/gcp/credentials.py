"""The provider's credentials and the bearer tokens that it gets for them, as in the real provider (google-apis.md 0).

For a service account's key of another universe than Google's, the provider signs the token itself, without a token
endpoint. A key of the default universe and a user's refresh token are exchanged at the `token_uri` in their file.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from mcpfleet_local_cloud.plugins.call import ProviderError
from mcpfleet_local_cloud.plugins.values import as_dict

SCOPES: Final = (
    "https://www.googleapis.com/auth/cloud-platform",
    "https://www.googleapis.com/auth/userinfo.email",
)
_LIFETIME: Final = 3600
_DEFAULT_UNIVERSE: Final = "googleapis.com"
_NO_CREDENTIALS: Final = (
    "Attempted to load application default credentials since neither `credentials` nor `access_token` was set in the "
    "provider block. No credentials loaded. To use your gcloud credentials, run 'gcloud auth application-default "
    "login'; to use the local cloud, set GOOGLE_APPLICATION_CREDENTIALS to its key file"
)
Exchange = Callable[[str, Mapping[str, str]], Mapping[str, Any]]


@dataclass
class Credentials:
    """The identity that the provider calls APIs with.

    Attributes:
        kind: a service account's key, a user's refresh token, or an access token.
        info: the credentials file's content; for an access token, `{"token": …}`.
        universe: the file's universe domain, empty if the file has none.
    """

    kind: Literal["service_account", "authorized_user", "token"]
    info: Mapping[str, Any]
    universe: str = ""
    clock: Callable[[], float] = time.time
    _cached: tuple[str, float] = ("", 0.0)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def bearer_token(self, exchange: Exchange) -> str:
        """An access token that is valid for at least five more minutes.

        Args:
            exchange: posts a form to a token endpoint and returns the JSON response.

        Raises:
            ProviderError: the key can't sign, or the token endpoint is Google's.
        """
        if self.kind == "token":
            return str(self.info["token"])
        with self._lock:
            token, expires = self._cached
            if expires - self.clock() < 300:
                token, expires = self._fetch_token(exchange)
                self._cached = (token, expires)
            return token

    def _fetch_token(self, exchange: Exchange) -> tuple[str, float]:
        now = int(self.clock())
        if self.kind == "service_account" and self.universe not in ("", _DEFAULT_UNIVERSE):
            return self._sign({"scope": " ".join(SCOPES), "aud": ""}, now), now + _LIFETIME
        token_uri = str(self.info.get("token_uri") or "https://oauth2.googleapis.com/token")
        if "googleapis.com" in token_uri or "google.com" in token_uri:
            raise ProviderError(
                f"these credentials need a token from {token_uri}, and the emulated provider never calls Google: use "
                "the local cloud's key file (GOOGLE_APPLICATION_CREDENTIALS)"
            )
        if self.kind == "service_account":
            form = {
                "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
                "assertion": self._sign({"scope": " ".join(SCOPES), "aud": token_uri}, now),
            }
        else:
            form = {"grant_type": "refresh_token"} | {
                key: str(self.info.get(key, "")) for key in ("client_id", "client_secret", "refresh_token")
            }
        response = exchange(token_uri, form)
        return str(response["access_token"]), now + float(response.get("expires_in", _LIFETIME))

    def _sign(self, claims: Mapping[str, str], now: int) -> str:
        import jwt  # heavy, and not needed before the first call

        email = self.info["client_email"]
        payload = {"iss": email, "sub": email, "iat": now, "exp": now + _LIFETIME, **claims}
        headers = {"kid": str(self.info.get("private_key_id", ""))}
        try:
            return jwt.encode(payload, str(self.info["private_key"]), algorithm="RS256", headers=headers)
        except (ValueError, TypeError, jwt.PyJWTError) as error:
            raise ProviderError(f"the private key in the credentials cannot be used: {error}") from error


def load(credentials: str, access_token: str, environment: Mapping[str, str]) -> Credentials:
    """Load the credentials in the real provider's order: credentials, access token, application default.

    Args:
        credentials: a key file's content or path, or empty.
        access_token: an access token, or empty.
        environment: the environment variables, for GOOGLE_APPLICATION_CREDENTIALS and HOME.

    Raises:
        ProviderError: there are no credentials, or they can't be read.
    """
    if credentials:
        return _parse(credentials if credentials.lstrip().startswith("{") else _read(credentials, "gcp:credentials"))
    if access_token:
        return Credentials("token", {"token": access_token})
    path = environment.get("GOOGLE_APPLICATION_CREDENTIALS", "")
    if path:
        return _parse(_read(path, "GOOGLE_APPLICATION_CREDENTIALS"))
    well_known = Path(environment.get("HOME", "/")) / ".config/gcloud/application_default_credentials.json"
    if well_known.is_file():
        return _parse(well_known.read_text())
    raise ProviderError(_NO_CREDENTIALS)


def _read(path: str, origin: str) -> str:
    try:
        return Path(path).expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ProviderError(f"{origin}: cannot read the credentials file {path}: {error}") from error


def _parse(text: str) -> Credentials:
    try:
        info: Any = json.loads(text)
    except ValueError:
        raise ProviderError("the credentials are not JSON: expected a key file's content") from None
    fields = as_dict(info)
    kind = fields.get("type")
    if kind not in ("service_account", "authorized_user"):
        raise ProviderError(
            f"the emulated provider has no credentials of type {kind!r}: use a service account's key file or an "
            "authorized_user file"
        )
    required = ("client_email", "private_key") if kind == "service_account" else ("refresh_token", "client_id")
    missing = [name for name in required if not fields.get(name)]
    if missing:
        raise ProviderError(f"the credentials have no {', '.join(missing)}")
    return Credentials(kind, fields, str(fields.get("universe_domain") or ""))
