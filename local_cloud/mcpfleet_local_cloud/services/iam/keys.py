"""Keys of service accounts: the private key is returned once, the public key is stored."""

import time
from collections.abc import Callable
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from mcpfleet_local_cloud.identity.tokens import key_id, private_pem, public_pem
from mcpfleet_local_cloud.rest.errors import GoogleError, not_found
from mcpfleet_local_cloud.rest.json_api import format_timestamp
from mcpfleet_local_cloud.state.folder import Settings
from mcpfleet_local_cloud.state.store import Document, Store

KIND: Final = "serviceAccountKey"
# Google's limit of keys for one account.
MAX_KEYS: Final = 10
_NEVER_EXPIRES: Final = "9999-12-31T23:59:59Z"


class AccountKeys:
    """The keys of every service account; accounts are documents of `ServiceAccounts`."""

    def __init__(self, store: Store, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock

    def create(self, account: Document, key: RSAPrivateKey) -> tuple[Document, Document]:
        """Add *key* to *account*; return the key as IAM v1 has it, and the credential file.

        Raises:
            GoogleError: FAILED_PRECONDITION: the account has the maximum number of keys.
        """
        if len(self.list(account)) >= MAX_KEYS:
            raise GoogleError(
                "FAILED_PRECONDITION",
                f"Service account {account['email']} has {MAX_KEYS} keys, which is the maximum. Delete one.",
            )
        public = key.public_key()
        created = format_timestamp(self._clock(), "seconds")
        name = f"{account['name']}/keys/{key_id(public)}"
        document: Document = {
            "name": name,
            "validAfterTime": created,
            "validBeforeTime": _NEVER_EXPIRES,
            "keyAlgorithm": "KEY_ALG_RSA_2048",
            "keyOrigin": "GOOGLE_PROVIDED",
            "keyType": "USER_MANAGED",
        }
        self._store.put(KIND, name, {**document, "publicKey": public_pem(public)})
        return document, self._credential_file(account, key)

    def get(self, account: Document, key_id: str) -> Document:
        """Return the key, without its public key.

        Raises:
            GoogleError: NOT_FOUND.
        """
        name = f"{account['name']}/keys/{key_id}"
        key = self._store.get(KIND, name)
        if key is None:
            raise not_found(name)
        return _without_public_key(key)

    def list(self, account: Document) -> list[Document]:
        """Return the account's keys, without their public keys."""
        return [_without_public_key(key) for _, key in self._store.list(KIND, f"{account['name']}/keys/")]

    def delete(self, account: Document, key_id: str) -> None:
        """Revoke the key.

        Raises:
            GoogleError: NOT_FOUND.
        """
        name = f"{account['name']}/keys/{key_id}"
        if not self._store.delete(KIND, name):
            raise not_found(name)

    def _credential_file(self, account: Document, key: RSAPrivateKey) -> dict[str, Any]:
        # The format of the file that Google's console downloads, with this cloud's addresses.
        return {
            "type": "service_account",
            "project_id": account["projectId"],
            "private_key_id": key_id(key.public_key()),
            "private_key": private_pem(key),
            "client_email": account["email"],
            "client_id": account["uniqueId"],
            "token_uri": f"{self._settings.url}/oauth2/token",
            "universe_domain": self._settings.universe,
        }


def _without_public_key(key: Document) -> Document:
    return {field: value for field, value in key.items() if field != "publicKey"}
