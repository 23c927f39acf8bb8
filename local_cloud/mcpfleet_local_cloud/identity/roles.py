"""Which permissions a role holds.

The predefined roles that a fleet, its README and its users name, reduced to the permissions that this cloud checks
(cloud.google.com/iam/docs/roles-permissions). A role that is missing here is refused by name, never granted in vain.
Permissions are compared without regard to case: Cloud Run writes `iam.serviceaccounts.actAs`, IAM
`iam.serviceAccounts.actAs`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final


def _of(resource: str, verbs: str) -> frozenset[str]:
    return frozenset(f"{resource}.{verb}" for verb in verbs.split())


_PROJECT: Final = _of("resourcemanager.projects", "get list")
_PROJECT_IAM: Final = _of("resourcemanager.projects", "get getIamPolicy setIamPolicy")

_RUN_READ: Final = (
    _of("run.services", "get list getIamPolicy")
    | _of("run.revisions", "get list")
    | _of("run.operations", "get list")
    | _of("run.locations", "list")
    | _of("run.routes", "get list")
    | _of("run.configurations", "get list")
)
_RUN_WRITE: Final = (
    _of("run.services", "create update delete") | _of("run.revisions", "delete") | _of("run.operations", "delete")
)
_RUN_INVOKE: Final = _of("run.routes", "invoke")
_RUN_ADMIN: Final = _RUN_READ | _RUN_WRITE | _RUN_INVOKE | _of("run.services", "setIamPolicy")

_ACCOUNT_READ: Final = _of("iam.serviceAccounts", "get list")
_ACCOUNT_WRITE: Final = _of("iam.serviceAccounts", "create delete disable enable undelete update")
_ACCOUNT_IAM: Final = _of("iam.serviceAccounts", "getIamPolicy setIamPolicy")
_ACCOUNT_KEYS: Final = _of("iam.serviceAccountKeys", "create delete get list")
_ACT_AS: Final = _of("iam.serviceAccounts", "actAs")
_POOLS_READ: Final = _of("iam.workloadIdentityPools", "get list") | _of("iam.workloadIdentityPoolProviders", "get list")
_POOLS: Final = (
    _POOLS_READ
    | _of("iam.workloadIdentityPools", "create delete undelete update")
    | _of("iam.workloadIdentityPoolProviders", "create delete undelete update")
)
_TOKENS: Final = _of("iam.serviceAccounts", "getAccessToken getOpenIdToken implicitDelegation signBlob signJwt")

_IMAGES_READ: Final = (
    _of("artifactregistry.repositories", "get list downloadArtifacts readViaVirtualRepository")
    | _of("artifactregistry.dockerimages", "get list")
    | _of("artifactregistry.packages", "get list")
    | _of("artifactregistry.versions", "get list")
    | _of("artifactregistry.tags", "get list")
    | _of("artifactregistry.files", "get list download")
    | _of("artifactregistry.locations", "get list")
)
_IMAGES_WRITE: Final = _of("artifactregistry.repositories", "uploadArtifacts") | _of(
    "artifactregistry.tags", "create update"
)
_IMAGES_DELETE: Final = (
    _of("artifactregistry.repositories", "deleteArtifacts")
    | _of("artifactregistry.packages", "delete")
    | _of("artifactregistry.versions", "delete")
    | _of("artifactregistry.tags", "delete")
)
_REPOSITORIES: Final = _of("artifactregistry.repositories", "create update delete getIamPolicy setIamPolicy")
_REPO_ADMIN: Final = _IMAGES_READ | _IMAGES_WRITE | _IMAGES_DELETE

_USAGE_READ: Final = _of("serviceusage.services", "get list") | _of("serviceusage.operations", "get list")
_USAGE_USE: Final = _of("serviceusage.services", "use")
_USAGE_WRITE: Final = _of("serviceusage.services", "enable disable")

_SECRETS_READ: Final = (
    _of("secretmanager.secrets", "get list getIamPolicy")
    | _of("secretmanager.versions", "get list")
    | _of("secretmanager.locations", "get list")
)
_SECRETS_ACCESS: Final = _of("secretmanager.versions", "access")
_SECRETS_ADD: Final = _of("secretmanager.versions", "add")
_SECRETS_WRITE: Final = (
    _of("secretmanager.secrets", "create update delete setIamPolicy")
    | _of("secretmanager.versions", "enable disable destroy")
    | _SECRETS_ADD
)

_OBJECTS_READ: Final = _of("storage.objects", "get list")
_OBJECTS_WRITE: Final = _of("storage.objects", "create delete update")
_BUCKETS_READ: Final = _of("storage.buckets", "get list getIamPolicy")
_BUCKETS_WRITE: Final = _of("storage.buckets", "create delete update setIamPolicy")

_NETWORK_READ: Final = _of("compute.networks", "get list") | _of("compute.subnetworks", "get list")
_NETWORK_WRITE: Final = _of("compute.networks", "create delete update use") | _of(
    "compute.subnetworks", "create delete update use"
)
_BALANCER: Final = (
    frozenset(
        f"compute.{resource}.{verb}"
        for resource in (
            "globalAddresses",
            "sslCertificates",
            "regionNetworkEndpointGroups",
            "backendServices",
            "urlMaps",
            "targetHttpProxies",
            "targetHttpsProxies",
            "globalForwardingRules",
        )
        for verb in ("create", "delete", "get", "list", "update", "use")
    )
    | _of("compute.globalOperations", "get")
    | _of("compute.regionOperations", "get")
)

_CERTIFICATES_READ: Final = (
    _of("certificatemanager.certs", "get list")
    | _of("certificatemanager.certmaps", "get list")
    | _of("certificatemanager.certmapentries", "get list")
    | _of("certificatemanager.dnsauthorizations", "get list")
    | _of("certificatemanager.operations", "get list")
)
_CERTIFICATES_EDIT: Final = _CERTIFICATES_READ | frozenset(
    f"certificatemanager.{resource}.{verb}"
    for resource in ("certs", "certmaps", "certmapentries", "dnsauthorizations")
    for verb in ("create", "update", "use")
)
_CERTIFICATES: Final = _CERTIFICATES_EDIT | frozenset(
    f"certificatemanager.{resource}.delete" for resource in ("certs", "certmaps", "certmapentries", "dnsauthorizations")
)

_MESHES: Final = (
    _of("networkservices.meshes", "create delete get list update use")
    | _of("networkservices.httpRoutes", "create delete get list update")
    | _of("networkservices.operations", "get list")
)
_MESH_CLIENT: Final = _of("trafficdirector.networks", "getConfigs reportMetrics")
_NAMES_READ: Final = (
    _of("dns.managedZones", "get list") | _of("dns.resourceRecordSets", "get list") | _of("dns.changes", "get list")
)
_NAMES_WRITE: Final = (
    _of("dns.managedZones", "create delete update")
    | _of("dns.resourceRecordSets", "create delete update")
    | _of("dns.changes", "create")
)

_IAP_POLICY: Final = _of("iap.webServices", "getIamPolicy setIamPolicy")
_IAP_SETTINGS: Final = _of("iap.webServices", "getSettings updateSettings") | _of(
    "iap.projects", "getSettings updateSettings"
)
_IAP_ACCESS: Final = _of("iap.webServiceVersions", "accessViaIAP")

_AGENTS_READ: Final = _of("agentregistry.services", "get list") | _of("agentregistry.mcpServers", "get list")
_AGENTS_WRITE: Final = _of("agentregistry.services", "create update delete")
_LOGS_WRITE: Final = _of("logging.logEntries", "create route")
_LOGS_READ: Final = _of("logging.logEntries", "list") | _of("logging.logs", "list")
_BUILDS_READ: Final = _of("cloudbuild.builds", "get list") | _of("cloudbuild.operations", "get list")
_BUILDS_WRITE: Final = _of("cloudbuild.builds", "create update")
_METRICS_WRITE: Final = _of("monitoring.timeSeries", "create") | _of("monitoring.metricDescriptors", "create")
_TRACES_WRITE: Final = _of("cloudtrace.traces", "patch")

_READ: Final = (
    _PROJECT
    | _of("resourcemanager.projects", "getIamPolicy")
    | _RUN_READ
    | _ACCOUNT_READ
    | _of("iam.serviceAccounts", "getIamPolicy")
    | _of("iam.serviceAccountKeys", "get list")
    | _POOLS_READ
    | _IMAGES_READ
    | _of("artifactregistry.repositories", "getIamPolicy")
    | _USAGE_READ
    | _SECRETS_READ
    | _BUCKETS_READ
    | _NETWORK_READ
    | _AGENTS_READ
    | _LOGS_READ
    | _NAMES_READ
    | _CERTIFICATES_READ
    | _BUILDS_READ
)
# Editors change resources but neither who may use them nor whose tokens they hold.
_EDIT: Final = (
    _READ
    | _RUN_WRITE
    | _RUN_INVOKE
    | _ACCOUNT_WRITE
    | _ACCOUNT_KEYS
    | _ACT_AS
    | _REPO_ADMIN
    | _of("artifactregistry.repositories", "create update delete")
    | _USAGE_USE
    | _USAGE_WRITE
    | (_SECRETS_WRITE - _of("secretmanager.secrets", "setIamPolicy"))
    | (_BUCKETS_WRITE - _of("storage.buckets", "setIamPolicy"))
    | _NETWORK_WRITE
    | _BALANCER
    | _MESHES
    | _CERTIFICATES
    | _NAMES_WRITE
    | _AGENTS_WRITE
    | _LOGS_WRITE
    | _BUILDS_WRITE
    | _METRICS_WRITE
    | _TRACES_WRITE
)
_OWN: Final = (
    _EDIT
    | _PROJECT_IAM
    | _RUN_ADMIN
    | _ACCOUNT_IAM
    | _POOLS
    | _REPOSITORIES
    | _SECRETS_WRITE
    | _SECRETS_ACCESS
    | _BUCKETS_WRITE
    | _OBJECTS_READ
    | _OBJECTS_WRITE
    | _IAP_POLICY
    | _IAP_SETTINGS
)

ROLES: Final[Mapping[str, frozenset[str]]] = {
    "roles/owner": _OWN,
    "roles/editor": _EDIT,
    "roles/viewer": _READ,
    "roles/browser": _PROJECT | _of("resourcemanager.projects", "getIamPolicy"),
    "roles/resourcemanager.projectIamAdmin": _PROJECT_IAM,
    "roles/run.admin": _RUN_ADMIN | _PROJECT,
    "roles/run.developer": _RUN_READ | _RUN_WRITE | _PROJECT,
    "roles/run.viewer": _RUN_READ | _PROJECT,
    "roles/run.invoker": _RUN_INVOKE,
    "roles/run.servicesInvoker": _RUN_INVOKE,
    # What Cloud Run itself needs: to pull images, and to speak as the services' accounts.
    "roles/run.serviceAgent": _IMAGES_READ | _of("iam.serviceAccounts", "getAccessToken getOpenIdToken signBlob"),
    "roles/iam.serviceAccountAdmin": _ACCOUNT_READ | _ACCOUNT_WRITE | _ACCOUNT_IAM | _PROJECT,
    "roles/iam.serviceAccountCreator": _ACCOUNT_READ | _of("iam.serviceAccounts", "create") | _PROJECT,
    "roles/iam.serviceAccountDeleter": _ACCOUNT_READ | _of("iam.serviceAccounts", "delete") | _PROJECT,
    "roles/iam.serviceAccountKeyAdmin": _ACCOUNT_READ | _ACCOUNT_KEYS | _PROJECT,
    "roles/iam.serviceAccountUser": _ACCOUNT_READ | _ACT_AS | _PROJECT,
    "roles/iam.serviceAccountTokenCreator": _ACCOUNT_READ | _TOKENS | _PROJECT,
    "roles/iam.serviceAccountOpenIdTokenCreator": _of("iam.serviceAccounts", "getOpenIdToken"),
    "roles/iam.workloadIdentityPoolAdmin": _POOLS | _PROJECT,
    "roles/iam.workloadIdentityPoolViewer": _POOLS_READ | _PROJECT,
    "roles/iam.workloadIdentityUser": _ACCOUNT_READ | _of("iam.serviceAccounts", "getAccessToken getOpenIdToken"),
    "roles/artifactregistry.admin": _REPO_ADMIN | _REPOSITORIES,
    "roles/artifactregistry.repoAdmin": _REPO_ADMIN,
    "roles/artifactregistry.writer": _IMAGES_READ | _IMAGES_WRITE,
    "roles/artifactregistry.reader": _IMAGES_READ,
    "roles/serviceusage.serviceUsageAdmin": _USAGE_READ | _USAGE_USE | _USAGE_WRITE | _PROJECT,
    "roles/serviceusage.serviceUsageConsumer": _USAGE_READ | _USAGE_USE | _PROJECT,
    "roles/serviceusage.serviceUsageViewer": _USAGE_READ | _PROJECT,
    "roles/secretmanager.admin": _SECRETS_READ | _SECRETS_ACCESS | _SECRETS_WRITE | _PROJECT,
    "roles/secretmanager.secretAccessor": _SECRETS_ACCESS | _PROJECT,
    "roles/secretmanager.secretVersionAdder": _SECRETS_ADD | _PROJECT,
    "roles/secretmanager.secretVersionManager": _of("secretmanager.versions", "add destroy disable enable get list")
    | _PROJECT,
    "roles/secretmanager.viewer": _SECRETS_READ | _PROJECT,
    "roles/storage.admin": _BUCKETS_READ | _BUCKETS_WRITE | _OBJECTS_READ | _OBJECTS_WRITE | _PROJECT,
    "roles/storage.objectAdmin": _OBJECTS_READ | _OBJECTS_WRITE | _PROJECT,
    "roles/storage.objectUser": _OBJECTS_READ | _OBJECTS_WRITE | _PROJECT,
    "roles/storage.objectCreator": _of("storage.objects", "create") | _PROJECT,
    "roles/storage.objectViewer": _OBJECTS_READ | _PROJECT,
    "roles/storage.bucketViewer": _of("storage.buckets", "get list"),
    "roles/vpcaccess.user": _of("vpcaccess.connectors", "get list use") | _PROJECT,
    "roles/compute.networkAdmin": _NETWORK_READ | _NETWORK_WRITE | _BALANCER | _MESHES | _PROJECT,
    "roles/compute.networkUser": _NETWORK_READ | _of("compute.networks", "use") | _of("compute.subnetworks", "use"),
    "roles/compute.networkViewer": _NETWORK_READ | _PROJECT,
    "roles/compute.loadBalancerAdmin": _BALANCER
    | _NETWORK_READ
    | _of("certificatemanager.certmaps", "get list use")
    | _PROJECT,
    "roles/compute.securityAdmin": _of("compute.sslCertificates", "create delete get list") | _PROJECT,
    "roles/trafficdirector.client": _MESH_CLIENT,
    "roles/certificatemanager.owner": _CERTIFICATES | _PROJECT,
    # An editor deletes nothing.
    "roles/certificatemanager.editor": _CERTIFICATES_EDIT | _PROJECT,
    "roles/certificatemanager.viewer": _CERTIFICATES_READ | _PROJECT,
    "roles/dns.admin": _NAMES_READ | _NAMES_WRITE | _PROJECT,
    "roles/dns.reader": _NAMES_READ | _PROJECT,
    "roles/iap.admin": _IAP_POLICY,
    "roles/iap.settingsAdmin": _IAP_SETTINGS,
    "roles/iap.httpsResourceAccessor": _IAP_ACCESS,
    "roles/agentregistry.admin": _AGENTS_READ | _AGENTS_WRITE,
    "roles/agentregistry.editor": _AGENTS_READ | _AGENTS_WRITE,
    "roles/agentregistry.viewer": _AGENTS_READ,
    "roles/aiplatform.user": _of("aiplatform.endpoints", "predict"),
    "roles/cloudbuild.builds.editor": _BUILDS_READ | _BUILDS_WRITE | _PROJECT,
    "roles/cloudbuild.builds.viewer": _BUILDS_READ | _PROJECT,
    "roles/logging.logWriter": _LOGS_WRITE,
    "roles/logging.viewer": _LOGS_READ | _PROJECT,
    "roles/monitoring.metricWriter": _METRICS_WRITE,
    "roles/cloudtrace.agent": _TRACES_WRITE,
}

_PERMISSION: Final = re.compile(r"[A-Za-z0-9]+(?:\.[A-Za-z0-9]+){2,}")
_ABOVE: Final = (
    "resourcemanager.projects.create",
    "resourcemanager.projects.list",
    "resourcemanager.organizations.",
    "resourcemanager.folders.",
)

_FOLDED: Final = {role: frozenset(permission.casefold() for permission in held) for role, held in ROLES.items()}

# The permissions that mean something on one resource, by the collection that its name ends in.
_APPLICABLE: Final[Mapping[str, tuple[str, ...]]] = {
    "services": ("run.services.", "run.routes.", "run.revisions."),
    "serviceAccounts": ("iam.serviceAccounts.", "iam.serviceAccountKeys."),
    "repositories": ("artifactregistry.",),
    "secrets": ("secretmanager.",),
    "buckets": ("storage.",),
}


def grants(role: str, permission: str) -> bool:
    """Whether *role* holds *permission*; an unknown role holds none."""
    return permission.casefold() in _FOLDED.get(role, frozenset())


def testable(permission: str, resource: str) -> bool:
    """Whether `testIamPermissions` may ask for *permission* on *resource* (its full name).

    A wildcard never is one, and a permission belongs to the resource's own API. On a project every permission can be
    asked for, but for those that only an organization or a folder has.
    """
    if _PERMISSION.fullmatch(permission) is None:
        return False
    collection = resource.split("/")[-2] if "/" in resource else ""
    prefixes = ("iap.",) if "/iap_web/" in resource else _APPLICABLE.get(collection)
    if prefixes is None:
        return not permission.startswith(_ABOVE)
    return permission.startswith(tuple(f"{one.partition('.')[0]}." for one in prefixes))


def supported(role: str, resource: str) -> bool:
    """Whether *role* may be granted on *resource* (its full name).

    As Google rules: a role is grantable on a resource if it contains any permission for that type of resource
    (cloud.google.com/iam/docs/viewing-grantable-roles). Every role is grantable on a project.
    """
    held: Iterable[str] = ROLES.get(role, ())
    collection = resource.split("/")[-2] if "/" in resource else ""
    prefixes = ("iap.",) if "/iap_web/" in resource else _APPLICABLE.get(collection)
    if prefixes is None:
        return role in ROLES
    return any(permission.startswith(prefixes) for permission in held)
