"""Secrets and buckets for instances, accessed as the revision's service account, with Google's error texts."""

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


class CloudInstanceData:
    """See `contract.InstanceData`.

    Args:
        secrets: the cloud's secrets.
        storage: the cloud's buckets.
        policies: checks the account's permissions.
        projects: finds a project by number or id.
        check_mesh: raises `RolloutError` for a revision whose service mesh does not work.
    """

    def __init__(
        self,
        secrets: SecretManager,
        storage: Storage,
        policies: Policies,
        projects: Projects,
        check_mesh: Callable[[Revision], None] = lambda _: None,
    ) -> None:
        self._secrets = secrets
        self._storage = storage
        self._policies = policies
        self._projects = projects
        self._check_mesh = check_mesh

    def check(self, revision: Revision) -> None:
        """See `InstanceData.check`."""
        self._check_mesh(revision)
        refs = [ref for container in revision.containers for _, ref in container.secret_env]
        for volume in revision.volumes:
            if isinstance(volume.source, SecretFiles):
                refs += [SecretRef(secret=volume.source.secret, version=file.version) for file in volume.source.files]
            elif isinstance(volume.source, BucketFolder):
                self._check_bucket(volume.source, revision)
        for ref in refs:
            try:
                self.secret(ref, revision.service_account)
            except RolloutError as refusal:
                raise RolloutError(
                    f"Revision '{revision.name}' is not ready and cannot serve traffic. {refusal}"
                ) from refusal

    def secret(self, ref: SecretRef, account: str) -> bytes:
        """See `InstanceData.secret`."""
        _, project, _, name = ref.secret.split("/")
        try:
            project_document = self._projects.get(project)
            displayed_name = f"projects/{project_document['projectNumber']}/secrets/{name}/versions/{ref.version}"
            full_name = f"projects/{project_document['projectId']}/secrets/{name}"
        except GoogleError:  # do not reveal whether a project of somebody else exists
            displayed_name, full_name = f"{ref.secret}/versions/{ref.version}", ""
        if full_name and not self._secrets.exists(full_name):
            raise RolloutError(f"Secret {displayed_name} was not found")
        if not full_name or not self._policies.allows(account, _ACCESS, f"{full_name}/versions/{ref.version}"):
            raise RolloutError(
                f"Permission denied on secret: {displayed_name} for Revision service account {account}. The service "
                "account used must be granted the 'Secret Manager Secret Accessor' role "
                "(roles/secretmanager.secretAccessor) "
                "at the secret, project or higher level."
            )
        try:
            return self._secrets.access(full_name, ref.version).data
        except GoogleError as refusal:
            if refusal.status == "NOT_FOUND":
                raise RolloutError(f"Secret {displayed_name} was not found") from refusal
            raise RolloutError(refusal.message) from refusal

    def folder(self, bucket: str) -> Path:
        """See `InstanceData.folder`."""
        return self._storage.folder(bucket)

    def _check_bucket(self, source: BucketFolder, revision: Revision) -> None:
        """Check what Cloud Run needs to mount a bucket with the revision's own account."""
        prefix = f"Revision '{revision.name}' is not ready and cannot serve traffic. "
        if not self._storage.exists(source.bucket):
            raise RolloutError(f"{prefix}The bucket '{source.bucket}' of a volume was not found.")
        permissions = ["storage.objects.list", "storage.objects.get"]
        if not source.read_only:
            permissions += ["storage.objects.create", "storage.objects.delete"]
        resource = self._storage.resource(source.bucket)
        missing = [
            permission
            for permission in permissions
            if not self._policies.allows(revision.service_account, permission, resource)
        ]
        if missing:
            role = "roles/storage.objectViewer" if source.read_only else "roles/storage.objectUser"
            raise RolloutError(
                f"{prefix}The service account {revision.service_account} lacks {', '.join(missing)} on the bucket "
                f"'{source.bucket}' of a volume: grant it {role} there."
            )
