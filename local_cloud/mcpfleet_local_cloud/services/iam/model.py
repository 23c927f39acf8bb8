"""Service accounts: what they are and when they may speak. Knows no HTTP."""

import base64
import re
import secrets
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from mcpfleet_local_cloud.identity import jws
from mcpfleet_local_cloud.identity.jws import TokenError
from mcpfleet_local_cloud.identity.policy import is_service_agent
from mcpfleet_local_cloud.rest.errors import GoogleError, invalid
from mcpfleet_local_cloud.services.iam import keys
from mcpfleet_local_cloud.state.store import Document, Store, StoreCache

KIND: Final = "serviceAccount"
_ID: Final = re.compile(r"[a-z](?:[-a-z0-9]{4,28}[a-z0-9])")
_DOMAIN: Final = ".iam.gserviceaccount.com"
_DISPLAY_NAME_LIMIT: Final = 100
_DESCRIPTION_LIMIT: Final = 256
_UPDATABLE: Final = {"display_name": "displayName", "displayName": "displayName", "description": "description"}


class ServiceAccounts:
    """The service accounts of one cloud, by e-mail."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._standing = StoreCache[tuple[str, str], bool](store)

    def get(self, email: str) -> Document | None:
        """The account as IAM v1 renders it, or None."""
        return self._store.get(KIND, email.lower())

    def exists(self, email: str) -> bool:
        """Whether there is such an account."""
        return self.get(email) is not None

    def is_active(self, email: str, subject: str) -> bool:
        """Whether the holder of an ID token is still who they were: not disabled, not deleted, no namesake.

        An e-mail address that is no service account's (a person's, a service agent's) always stands.
        """
        known = self._standing.get((email, subject))
        if known is None:
            known = self._stands(email, subject)
            self._standing.put((email, subject), known)
        return known

    def _stands(self, email: str, subject: str) -> bool:
        account = self.get(email)
        if account is None:
            return not email.lower().endswith(_DOMAIN) or is_service_agent(email)
        return not account.get("disabled") and account["uniqueId"] == subject

    def find(self, project: str, key: str) -> Document:
        """The account whose e-mail or unique id is *key*, in *project* (`-`: in any).

        Raises:
            GoogleError: NOT_FOUND.
        """
        account = self.get(key) or next((one for _, one in self._store.list(KIND) if one["uniqueId"] == key), None)
        if account is None or project not in {"-", account["projectId"]}:
            raise GoogleError("NOT_FOUND", "Unknown service account")
        return account

    def of_project(self, project: str) -> list[Document]:
        """The project's accounts, by name."""
        return [one for _, one in self._store.list(KIND) if one["projectId"] == project]

    def create(self, project: str, account_id: str, *, display_name: str = "", description: str = "") -> Document:
        """Make `ACCOUNT_ID@PROJECT.iam.gserviceaccount.com`.

        Raises:
            GoogleError: ALREADY_EXISTS, INVALID_ARGUMENT.
        """
        if not _ID.fullmatch(account_id):
            raise invalid(
                f"Invalid service account ID {account_id!r}: it must be 6 to 30 characters long, begin with a "
                "lower-case letter, and hold only lower-case letters, digits and hyphens (not at its end)."
            )
        made = self.make(f"{account_id}@{project}.iam.gserviceaccount.com", project, display_name, description)
        if made is None:
            raise GoogleError(
                "ALREADY_EXISTS",
                f"Service account {account_id} already exists within project projects/{project}.",
            )
        return made

    def make(self, email: str, project: str, display_name: str = "", description: str = "") -> Document | None:
        """Make the account under a name of Google's own choice (`NUMBER-compute@…`); None if it is there."""
        _check_texts(display_name, description)
        unique_id = "1" + "".join(secrets.choice("0123456789") for _ in range(20))
        account: Document = {
            "name": f"projects/{project}/serviceAccounts/{email}",
            "projectId": project,
            "uniqueId": unique_id,
            "email": email,
            "etag": self._new_etag(),
            "oauth2ClientId": unique_id,
        }
        account |= {"displayName": display_name} if display_name else {}
        account |= {"description": description} if description else {}
        return account if self._store.insert(KIND, email, account) else None

    def update(self, account: Document, changes: Document, mask: list[str]) -> Document:
        """Change the fields of *account* that *mask* names.

        Raises:
            GoogleError: INVALID_ARGUMENT; ABORTED (an old etag).
        """
        if not mask:
            raise invalid("updateMask: must name the fields to change (displayName, description).")
        for path in mask:
            if path not in _UPDATABLE:
                raise invalid(f"updateMask: {path!r} cannot be changed; displayName and description can.")
        if changes.get("etag") and changes["etag"] != account["etag"]:
            raise GoogleError(
                "ABORTED",
                f"There were concurrent changes to service account {account['email']}. "
                "Please retry the whole read-modify-write with exponential backoff.",
            )
        _check_texts(changes.get("displayName", ""), changes.get("description", ""))
        changed = dict(account)
        for field in {_UPDATABLE[path] for path in mask}:
            changed.pop(field, None)
            if changes.get(field):
                changed[field] = changes[field]
        return self._put(changed)

    def set_disabled(self, account: Document, *, disabled: bool) -> None:
        """Take away, or give back, the account's right to speak."""
        if bool(account.get("disabled")) != disabled:
            changed = {name: value for name, value in account.items() if name != "disabled"}
            self._put(changed | ({"disabled": True} if disabled else {}))

    def delete(self, account: Document) -> None:
        """Remove the account and its keys; policies are the caller's to mark (`Policies.mark_deleted`)."""
        with self._store.transaction():
            for name, _ in self._store.list(keys.KIND, f"{account['name']}/keys/"):
                self._store.delete(keys.KIND, name)
            self._store.delete(KIND, account["email"])

    def verify_signed(self, token: str, now: float) -> dict[str, Any]:
        """The claims of a token that a service account signed itself with one of its keys; `iss` is the account.

        Raises:
            TokenError: not a token, not an account's, or not valid at *now* (seconds since the epoch).
        """
        issuer = jws.unverified(token).get("iss")
        account = self.get(issuer) if isinstance(issuer, str) else None
        if account is None:
            raise TokenError(f"the issuer {issuer!r} is no service account")
        key = self._store.get(keys.KIND, f"{account['name']}/keys/{jws.key_id(token)}")
        if key is None:
            raise TokenError(f"{issuer} has no key of that id")
        public = load_pem_public_key(key["publicKey"].encode())
        if not isinstance(public, RSAPublicKey):
            raise TokenError("the account's key is not an RSA key")
        return jws.verify(token, public, now=now)

    def _put(self, account: Document) -> Document:
        changed = {**account, "etag": self._new_etag()}
        self._store.put(KIND, account["email"], changed)
        return changed

    def _new_etag(self) -> str:
        return base64.b64encode(f"{self._store.next_number('account-etag'):08}".encode()).decode()


def _check_texts(display_name: str, description: str) -> None:
    for field, value, limit in (
        ("display_name", display_name, _DISPLAY_NAME_LIMIT),
        ("description", description, _DESCRIPTION_LIMIT),
    ):
        if len(value.encode()) > limit:
            raise invalid(f"service_account.{field}: at most {limit} bytes in UTF-8 are allowed.")
