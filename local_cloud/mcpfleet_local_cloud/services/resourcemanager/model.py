"""The project: its id, its number and its parent."""

from datetime import UTC, datetime
from typing import Final

from mcpfleet_local_cloud.rest.errors import GoogleError
from mcpfleet_local_cloud.state.folder import Settings
from mcpfleet_local_cloud.state.store import Document, Store

KIND: Final = "project"
ORGANIZATION: Final = "108152342316"
"""The id of the project's organization, of which nothing else exists."""


class Projects:
    """The projects of one cloud (one, for now)."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(self, settings: Settings, now: float) -> None:
        """Create the cloud's project, unless it exists."""
        created = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
        self._store.insert(
            KIND,
            settings.project,
            {
                "projectNumber": str(settings.project_number),
                "projectId": settings.project,
                "lifecycleState": "ACTIVE",
                "name": settings.project,
                "createTime": created.replace("+00:00", "Z"),
                "parent": {"type": "organization", "id": ORGANIZATION},
            },
        )

    def get(self, id_or_number: str) -> Document:
        """Return the project.

        Raises:
            GoogleError: PERMISSION_DENIED: there is no such project (Google does not reveal which projects exist).
        """
        project = self._store.get(KIND, id_or_number)
        if project is not None:
            return project
        for _, other in self._store.list(KIND):
            if other["projectNumber"] == id_or_number:
                return other
        raise GoogleError(
            "PERMISSION_DENIED",
            f"Permission denied on resource project {id_or_number}.",
            reason="CONSUMER_INVALID",
            metadata={"consumer": f"projects/{id_or_number}"},
        )

    def list(self) -> list[Document]:
        """List all projects."""
        return [project for _, project in self._store.list(KIND)]
