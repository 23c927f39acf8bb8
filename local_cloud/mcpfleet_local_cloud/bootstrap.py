"""The initial content of a cloud: its project, its accounts, and the credential files of its first users.

The accounts get exactly the roles that README lists for Google Cloud: a program that works here needs no further
permissions on Google. The private keys exist only in the credential files.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

from mcpfleet_local_cloud.identity.policy import Policies
from mcpfleet_local_cloud.identity.tokens import new_key
from mcpfleet_local_cloud.services.iam.keys import AccountKeys
from mcpfleet_local_cloud.services.iam.model import ServiceAccounts
from mcpfleet_local_cloud.services.oauth import CLIENT_ID, CLIENT_SECRET, People
from mcpfleet_local_cloud.services.resourcemanager.model import Projects
from mcpfleet_local_cloud.services.serviceusage.model import INITIAL_APIS, ServiceUsage
from mcpfleet_local_cloud.state.folder import Settings, write_private
from mcpfleet_local_cloud.state.store import Document

DEPLOYER: Final = "deployer"
PEOPLE: Final = ("ada", "bob")
DEPLOYER_ROLES: Final = (
    "roles/artifactregistry.admin",
    "roles/iam.serviceAccountAdmin",
    "roles/iam.serviceAccountUser",
    "roles/run.admin",
    # For features that only some fleets use; see docs/deploy-to-google.md.
    "roles/agentregistry.admin",
    "roles/certificatemanager.owner",
    "roles/cloudbuild.builds.editor",
    "roles/compute.loadBalancerAdmin",
    "roles/compute.networkAdmin",
    "roles/dns.admin",
    "roles/iap.admin",
    "roles/iap.settingsAdmin",
    "roles/logging.viewer",
    "roles/resourcemanager.projectIamAdmin",
    "roles/secretmanager.admin",
    "roles/storage.admin",
    "roles/serviceusage.serviceUsageAdmin",
    "roles/vpcaccess.user",
)


class Bootstrap:
    """Creates the initial content of a cloud; may run at each start."""

    def __init__(
        self,
        *,
        settings: Settings,
        projects: Projects,
        usage: ServiceUsage,
        accounts: ServiceAccounts,
        keys: AccountKeys,
        people: People,
        policies: Policies,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._projects = projects
        self._usage = usage
        self._accounts = accounts
        self._keys = keys
        self._people = people
        self._policies = policies
        self._clock = clock

    def create_project(self) -> None:
        """Create the project with its initial APIs, accounts and grants, unless it exists."""
        settings = self._settings
        if self._projects.list():
            return
        self._projects.create(settings, self._clock())
        self._usage.enable(self._projects.get(settings.project), INITIAL_APIS)
        self._accounts.create_with_email(
            f"{settings.project_number}-compute@developer.gserviceaccount.com",
            settings.project,
            "Compute Engine default service account",
        )
        self._accounts.create(settings.project, DEPLOYER, display_name="Deploys the fleet")
        member = f"serviceAccount:{self._deployer_email()}"
        bindings = [{"role": role, "members": [member]} for role in DEPLOYER_ROLES]
        # Google makes this grant when Cloud Run is enabled.
        agent = f"serviceAccount:service-{settings.project_number}@serverless-robot-prod.iam.gserviceaccount.com"
        bindings.append({"role": "roles/run.serviceAgent", "members": [agent]})
        self._policies.set(f"projects/{settings.project}", {"bindings": bindings})

    def write_credentials(self, folder: Path) -> None:
        """Write `deployer.json`, `ada.json` and `bob.json`, mode 0600, with this cloud's address.

        A file that still works keeps its key. A lost or foreign file is replaced, and the keys of the old one are
        revoked.
        """
        self._write_deployer(folder / f"{DEPLOYER}.json")
        for name in PEOPLE:
            self._write_person(folder / f"{name}.json", f"{name}@{self._settings.universe}")

    def _write_deployer(self, path: Path) -> None:
        account = self._accounts.get(self._deployer_email())
        if account is None:
            return  # A user deleted the account on purpose; a reset creates it again.
        current = _read_credentials(path)
        key_ids = {key["name"].rpartition("/")[2] for key in self._keys.list(account)}
        if current.get("private_key_id") in key_ids and "private_key" in current:
            content = {**current, "token_uri": f"{self._settings.url}/oauth2/token"}
        else:
            for key_id in key_ids:
                self._keys.delete(account, key_id)
            _, content = self._keys.create(account, new_key())
        _write_credentials(path, content, current)

    def _write_person(self, path: Path, email: str) -> None:
        current = _read_credentials(path)
        token = current.get("refresh_token")
        person = self._people.find_by_refresh_token(token) if isinstance(token, str) else None
        if person is None or person["email"] != email:
            token = self._people.issue_refresh_token(email)
        content = {
            "type": "authorized_user",
            "account": email,
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "refresh_token": token,
            "token_uri": f"{self._settings.url}/oauth2/token",
            "universe_domain": self._settings.universe,
        }
        _write_credentials(path, content, current)

    def _deployer_email(self) -> str:
        return f"{DEPLOYER}@{self._settings.project}.iam.gserviceaccount.com"


def _read_credentials(path: Path) -> Document:
    try:
        value: Any = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return cast("Document", value) if isinstance(value, dict) else {}


def _write_credentials(path: Path, content: Document, current: Document) -> None:
    if content != current or path.stat().st_mode & 0o077:
        write_private(path, json.dumps(content, indent=2) + "\n")
