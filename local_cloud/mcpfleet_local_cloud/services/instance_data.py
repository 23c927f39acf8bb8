"""Secrets and buckets as an instance gets them: in the name of its service account, or refused in Google's words."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from mcpfleet_local_cloud.data_plane.contract import BucketFolder, Revision, RolloutError, SecretFiles, SecretRef
from mcpfleet_local_cloud.identity.policy import Policies
from mcpfleet_local_cloud.rest.errors import GoogleError
from mcpfleet_local_cloud.services.resourcemanager.model import Projects
from mcpfleet_local_cloud.services.secretmanager.model import SecretManager
from mcpfleet_local_cloud.services.storage.model import Storage

_ACCESS: Final = "secretmanager.versions.access"


class CloudSources:
    """See `contract.InstanceData`.

    Args:
        secrets: the cloud's secrets.
        storage: the cloud's buckets.
        policies: knows what an account may do.
        projects: knows a project by number and by id.
        mesh: refuses a revision whose service mesh does not work, as `Sources.check` does.
    """

    def __init__(
        self,
        secrets: SecretManager,
        storage: Storage,
        policies: Policies,
        projects: Projects,
        mesh: Callable[[Revision], None] = lambda _: None,
    ) -> None:
        self._secrets = secrets
        self._storage = storage
        self._policies = policies
        self._projects = projects
        self._mesh = mesh

    def check(self, revision: Revision) -> None:
        """See `Sources.check`."""
        self._mesh(revision)
        asked = [ref for container in revision.containers for _, ref in container.secret_env]
        for volume in revision.volumes:
            if isinstance(volume.source, SecretFiles):
                asked += [SecretRef(secret=volume.source.secret, version=one.version) for one in volume.source.files]
            elif isinstance(volume.source, BucketFolder):
                self._check_bucket(volume.source, revision)
        for ref in asked:
            try:
                self.secret(ref, revision.service_account)
            except RolloutError as refusal:
                raise RolloutError(
                    f"Revision '{revision.name}' is not ready and cannot serve traffic. {refusal}"
                ) from refusal

    def secret(self, ref: SecretRef, account: str) -> bytes:
        """See `Sources.secret`."""
        _, project, _, name = ref.secret.split("/")
        try:
            found = self._projects.get(project)
            shown = f"projects/{found['projectNumber']}/secrets/{name}/versions/{ref.version}"
            full = f"projects/{found['projectId']}/secrets/{name}"
        except GoogleError:  # nobody is told whether a project of others exists
            shown, full = f"{ref.secret}/versions/{ref.version}", ""
        if full and not self._secrets.exists(full):
            raise RolloutError(f"Secret {shown} was not found")
        if not full or not self._policies.allows(account, _ACCESS, f"{full}/versions/{ref.version}"):
            raise RolloutError(
                f"Permission denied on secret: {shown} for Revision service account {account}. The service account "
                "used must be granted the 'Secret Manager Secret Accessor' role (roles/secretmanager.secretAccessor) "
                "at the secret, project or higher level."
            )
        try:
            return self._secrets.access(full, ref.version).data
        except GoogleError as refusal:
            if refusal.status == "NOT_FOUND":
                raise RolloutError(f"Secret {shown} was not found") from refusal
            raise RolloutError(refusal.message) from refusal

    def folder(self, bucket: str) -> Path:
        """See `Sources.folder`."""
        return self._storage.folder(bucket)

    def _check_bucket(self, source: BucketFolder, revision: Revision) -> None:
        """Cloud Run mounts a bucket with the revision's own account, and fails to start an instance that may not."""
        start = f"Revision '{revision.name}' is not ready and cannot serve traffic. "
        if not self._storage.exists(source.bucket):
            raise RolloutError(f"{start}The bucket '{source.bucket}' of a volume was not found.")
        wanted = ["storage.objects.list", "storage.objects.get"]
        if not source.read_only:
            wanted += ["storage.objects.create", "storage.objects.delete"]
        resource = self._storage.resource(source.bucket)
        missing = [one for one in wanted if not self._policies.allows(revision.service_account, one, resource)]
        if missing:
            role = "roles/storage.objectViewer" if source.read_only else "roles/storage.objectUser"
            raise RolloutError(
                f"{start}The service account {revision.service_account} lacks {', '.join(missing)} on the bucket "
                f"'{source.bucket}' of a volume: grant it {role} there."
            )
