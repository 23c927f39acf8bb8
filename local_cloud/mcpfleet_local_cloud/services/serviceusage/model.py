"""The APIs of Google that exist here, and those that a project has enabled."""

from collections.abc import Mapping, Sequence
from typing import Final

from mcpfleet_local_cloud.rest.errors import GoogleError, invalid
from mcpfleet_local_cloud.state.store import Document, Store

KIND: Final = "enabledApi"
BATCH_LIMIT: Final = 20

# Google's titles, which are part of the error that asks the user to enable an API.
TITLES: Final[Mapping[str, str]] = {
    "agentregistry.googleapis.com": "Agent Registry API",
    "aiplatform.googleapis.com": "Vertex AI API",
    "artifactregistry.googleapis.com": "Artifact Registry API",
    "billingbudgets.googleapis.com": "Cloud Billing Budget API",
    "certificatemanager.googleapis.com": "Certificate Manager API",
    "cloudbilling.googleapis.com": "Cloud Billing API",
    "cloudbuild.googleapis.com": "Cloud Build API",
    "cloudresourcemanager.googleapis.com": "Cloud Resource Manager API",
    "cloudtrace.googleapis.com": "Cloud Trace API",
    "compute.googleapis.com": "Compute Engine API",
    "dns.googleapis.com": "Cloud DNS API",
    "iam.googleapis.com": "Identity and Access Management (IAM) API",
    "iamcredentials.googleapis.com": "IAM Service Account Credentials API",
    "iap.googleapis.com": "Cloud Identity-Aware Proxy API",
    "logging.googleapis.com": "Cloud Logging API",
    "modelarmor.googleapis.com": "Model Armor API",
    "monitoring.googleapis.com": "Cloud Monitoring API",
    "networksecurity.googleapis.com": "Network Security API",
    "networkservices.googleapis.com": "Network Services API",
    "pubsub.googleapis.com": "Cloud Pub/Sub API",
    "run.googleapis.com": "Cloud Run Admin API",
    "secretmanager.googleapis.com": "Secret Manager API",
    "serviceusage.googleapis.com": "Service Usage API",
    "storage.googleapis.com": "Cloud Storage API",
    "sts.googleapis.com": "Security Token Service API",
    "telemetry.googleapis.com": "Telemetry API",
    "trafficdirector.googleapis.com": "Traffic Director API",
    "vpcaccess.googleapis.com": "Serverless VPC Access API",
}
# Enabled in a new project, so that a program can enable the others.
INITIAL_APIS: Final = ("cloudresourcemanager.googleapis.com", "serviceusage.googleapis.com")


class ServiceUsage:
    """The enabled APIs of each project; projects are documents of `Projects`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def is_enabled(self, project: Document, api: str) -> bool:
        """Whether *project* has *api* enabled."""
        return self._store.get(KIND, _full_name(project, api)) is not None

    def get(self, project: Document, api: str) -> Document:
        """Return the API and its state as Google's `Service`.

        Raises:
            GoogleError: PERMISSION_DENIED: no such API.
        """
        _check_exist([api])
        name = _full_name(project, api)
        return {
            "name": name,
            "config": {"name": api, "title": TITLES[api]},
            "state": "ENABLED" if self.is_enabled(project, api) else "DISABLED",
            "parent": name.partition("/services/")[0],
        }

    def list(self, project: Document, state: str | None) -> list[Document]:
        """List all APIs, or those in *state*, sorted by name."""
        services = [self.get(project, api) for api in sorted(TITLES)]
        return [service for service in services if state in {None, service["state"]}]

    def enable(self, project: Document, apis: Sequence[str]) -> bool:
        """Enable all of *apis* or none; return False if all of them were enabled before.

        Raises:
            GoogleError: PERMISSION_DENIED: no such API; INVALID_ARGUMENT: *apis* is empty or too long.
        """
        if not apis:
            raise invalid("serviceIds: at least one service must be given.")
        if len(apis) > BATCH_LIMIT:
            raise invalid(f"serviceIds: at most {BATCH_LIMIT} services can be enabled at once.")
        _check_exist(apis)
        with self._store.transaction():
            newly_enabled = [api for api in apis if self._store.insert(KIND, _full_name(project, api), {"api": api})]
        return bool(newly_enabled)

    def disable(self, project: Document, api: str) -> bool:
        """Disable *api*; return False if it was not enabled.

        Raises:
            GoogleError: PERMISSION_DENIED: no such API.
        """
        _check_exist([api])
        return self._store.delete(KIND, _full_name(project, api))


def _full_name(project: Document, api: str) -> str:
    return f"projects/{project['projectNumber']}/services/{api}"


def _check_exist(apis: Sequence[str]) -> None:
    unknown = [api for api in apis if api not in TITLES]
    if unknown:
        raise GoogleError(
            "PERMISSION_DENIED",
            f"Not found or permission denied for service(s): {', '.join(unknown)}.",
            reason="SERVICE_CONFIG_NOT_FOUND_OR_PERMISSION_DENIED",
            metadata={"services": ",".join(unknown)},
            domain="serviceusage.googleapis.com",
        )
