"""Service accounts: their properties, their state, and the tokens that they sign. Has no HTTP."""

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
    """The service accounts of one cloud, by e-mail address."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._active_cache = StoreCache[tuple[str, str], bool](store)

    def get(self, email: str) -> Document | None:
        """Return the account as IAM v1 has it, or None."""
        return self._store.get(KIND, email.lower())

    def exists(self, email: str) -> bool:
        """Whether the account exists."""
        return self.get(email) is not None

    def is_active(self, email: str, subject: str) -> bool:
        """Whether the subject of an ID token is still valid: not disabled, deleted, or replaced by a new account.

        An e-mail address of a user or a service agent is always active.
        """
        active = self._active_cache.get((email, subject))
        if active is None:
            active = self._check_active(email, subject)
            self._active_cache.put((email, subject), active)
        return active

    def _check_active(self, email: str, subject: str) -> bool:
        account = self.get(email)
        if account is None:
            return not email.lower().endswith(_DOMAIN) or is_service_agent(email)
        return not account.get("disabled") and account["uniqueId"] == subject

    def find(self, project: str, key: str) -> Document:
        """Find the account whose e-mail address or unique id is *key*, in *project* (`-`: in any project).

        Raises:
            GoogleError: NOT_FOUND.
        """
        account = self.get(key) or next(
            (candidate for _, candidate in self._store.list(KIND) if candidate["uniqueId"] == key), None
        )
        if account is None or project not in {"-", account["projectId"]}:
            raise GoogleError("NOT_FOUND", "Unknown service account")
        return account

    def list_in_project(self, project: str) -> list[Document]:
        """List the project's accounts, sorted by e-mail address."""
        return [account for _, account in self._store.list(KIND) if account["projectId"] == project]

    def create(self, project: str, account_id: str, *, display_name: str = "", description: str = "") -> Document:
        """Create `ACCOUNT_ID@PROJECT.iam.gserviceaccount.com`.

        Raises:
            GoogleError: ALREADY_EXISTS, INVALID_ARGUMENT.
        """
        if not _ID.fullmatch(account_id):
            raise invalid(
                f"Invalid service account ID {account_id!r}: it must be 6 to 30 characters long, begin with a "
                "lower-case letter, and hold only lower-case letters, digits and hyphens (not at its end)."
            )
        account = self.create_with_email(
            f"{account_id}@{project}.iam.gserviceaccount.com", project, display_name, description
        )
        if account is None:
            raise GoogleError(
                "ALREADY_EXISTS",
                f"Service account {account_id} already exists within project projects/{project}.",
            )
        return account

    def create_with_email(
        self, email: str, project: str, display_name: str = "", description: str = ""
    ) -> Document | None:
        """Create an account with any e-mail address (such as `NUMBER-compute@…`); return None if it exists."""
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
        updated = dict(account)
        for field in {_UPDATABLE[path] for path in mask}:
            updated.pop(field, None)
            if changes.get(field):
                updated[field] = changes[field]
        return self._save(updated)

    def set_disabled(self, account: Document, *, disabled: bool) -> None:
        """Disable or enable the account."""
        if bool(account.get("disabled")) != disabled:
            updated = {name: value for name, value in account.items() if name != "disabled"}
            self._save(updated | ({"disabled": True} if disabled else {}))

    def delete(self, account: Document) -> None:
        """Delete the account and its keys. The caller must mark it in policies (`Policies.mark_deleted`)."""
        with self._store.transaction():
            for name, _ in self._store.list(keys.KIND, f"{account['name']}/keys/"):
                self._store.delete(keys.KIND, name)
            self._store.delete(KIND, account["email"])

    def verify_signed(self, token: str, now: float) -> dict[str, Any]:
        """Verify a token that a service account signed with one of its keys; return its claims (`iss` is the account).

        Raises:
            TokenError: not a token, not signed by an account, or not valid at *now* (seconds since the epoch).
        """
        issuer = jws.unverified_claims(token).get("iss")
        account = self.get(issuer) if isinstance(issuer, str) else None
        if account is None:
            raise TokenError(f"the issuer {issuer!r} is no service account")
        key = self._store.get(keys.KIND, f"{account['name']}/keys/{jws.read_key_id(token)}")
        if key is None:
            raise TokenError(f"{issuer} has no key of that id")
        public = load_pem_public_key(key["publicKey"].encode())
        if not isinstance(public, RSAPublicKey):
            raise TokenError("the account's key is not an RSA key")
        return jws.verify(token, public, now=now)

    def _save(self, account: Document) -> Document:
        updated = {**account, "etag": self._new_etag()}
        self._store.put(KIND, account["email"], updated)
        return updated

    def _new_etag(self) -> str:
        return base64.b64encode(f"{self._store.next_number('account-etag'):08}".encode()).decode()


def _check_texts(display_name: str, description: str) -> None:
    for field, value, limit in (
        ("display_name", display_name, _DISPLAY_NAME_LIMIT),
        ("description", description, _DESCRIPTION_LIMIT),
    ):
        if len(value.encode()) > limit:
            raise invalid(f"service_account.{field}: at most {limit} bytes in UTF-8 are allowed.")
