"""Keys of service accounts: the private half leaves once, the public half stays."""

import time
from collections.abc import Callable
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from mcpfleet_local_cloud.identity.tokens import key_name, private_pem, public_pem
from mcpfleet_local_cloud.rest.errors import GoogleError, not_found
from mcpfleet_local_cloud.rest.json_api import format_timestamp
from mcpfleet_local_cloud.state.folder import Settings
from mcpfleet_local_cloud.state.store import Document, Store

KIND: Final = "serviceAccountKey"
# Google's limit of keys for one account.
LIMIT: Final = 10
_FOREVER: Final = "9999-12-31T23:59:59Z"


class AccountKeys:
    """The keys of every service account (given as its document, see `ServiceAccounts`)."""

    def __init__(self, store: Store, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock

    def create(self, account: Document, key: RSAPrivateKey) -> tuple[Document, Document]:
        """Accept *key* for *account*; the key as IAM v1 renders it, and the credential file.

        Raises:
            GoogleError: FAILED_PRECONDITION: the account has as many keys as it may.
        """
        if len(self.list(account)) >= LIMIT:
            raise GoogleError(
                "FAILED_PRECONDITION",
                f"Service account {account['email']} has {LIMIT} keys, which is the maximum. Delete one.",
            )
        public = key.public_key()
        created = format_timestamp(self._clock(), "seconds")
        name = f"{account['name']}/keys/{key_name(public)}"
        document: Document = {
            "name": name,
            "validAfterTime": created,
            "validBeforeTime": _FOREVER,
            "keyAlgorithm": "KEY_ALG_RSA_2048",
            "keyOrigin": "GOOGLE_PROVIDED",
            "keyType": "USER_MANAGED",
        }
        self._store.put(KIND, name, {**document, "publicKey": public_pem(public)})
        return document, self._credentials(account, key)

    def get(self, account: Document, key_id: str) -> Document:
        """The key, without its material.

        Raises:
            GoogleError: NOT_FOUND.
        """
        name = f"{account['name']}/keys/{key_id}"
        found = self._store.get(KIND, name)
        if found is None:
            raise not_found(name)
        return _shown(found)

    def list(self, account: Document) -> list[Document]:
        """The account's keys, without their material."""
        return [_shown(key) for _, key in self._store.list(KIND, f"{account['name']}/keys/")]

    def delete(self, account: Document, key_id: str) -> None:
        """Trust the key no longer.

        Raises:
            GoogleError: NOT_FOUND.
        """
        name = f"{account['name']}/keys/{key_id}"
        if not self._store.delete(KIND, name):
            raise not_found(name)

    def _credentials(self, account: Document, key: RSAPrivateKey) -> dict[str, Any]:
        # The shape of the file that Google's console downloads; every address in it is this cloud's.
        return {
            "type": "service_account",
            "project_id": account["projectId"],
            "private_key_id": key_name(key.public_key()),
            "private_key": private_pem(key),
            "client_email": account["email"],
            "client_id": account["uniqueId"],
            "token_uri": f"{self._settings.url}/oauth2/token",
            "universe_domain": self._settings.universe,
        }


def _shown(key: Document) -> Document:
    return {field: value for field, value in key.items() if field != "publicKey"}
