"""Projects and regions of Cloud Run, and full names of services."""

from dataclasses import dataclass
from typing import Final

from mcpfleet_local_cloud.rest.errors import GoogleError, unimplemented

REGIONS: Final = (
    "africa-south1",
    "asia-east1",
    "asia-east2",
    "asia-northeast1",
    "asia-northeast2",
    "asia-northeast3",
    "asia-south1",
    "asia-south2",
    "asia-southeast1",
    "asia-southeast2",
    "asia-southeast3",
    "australia-southeast1",
    "australia-southeast2",
    "europe-central2",
    "europe-north1",
    "europe-north2",
    "europe-southwest1",
    "europe-west1",
    "europe-west10",
    "europe-west12",
    "europe-west2",
    "europe-west3",
    "europe-west4",
    "europe-west6",
    "europe-west8",
    "europe-west9",
    "me-central1",
    "me-central2",
    "me-west1",
    "northamerica-northeast1",
    "northamerica-northeast2",
    "northamerica-south1",
    "southamerica-east1",
    "southamerica-west1",
    "us-central1",
    "us-east1",
    "us-east4",
    "us-east5",
    "us-south1",
    "us-west1",
    "us-west2",
    "us-west3",
    "us-west4",
)
"""Every region of Cloud Run (cloud.google.com/run/docs/locations)."""


@dataclass(frozen=True, kw_only=True)
class Location:
    """A project and an existing region of Cloud Run.

    Raises:
        GoogleError: PERMISSION_DENIED for an unknown region, as on Google; INVALID_ARGUMENT for the wildcard;
            UNIMPLEMENTED for `global`, the location of multi-region services.
    """

    project: str
    number: int
    region: str

    def __post_init__(self) -> None:
        if self.region == "-":
            raise GoogleError("INVALID_ARGUMENT", f"Location '-' is not allowed in '{self}': name one region.")
        if self.region == "global":
            raise unimplemented("multiRegionSettings", "a service has one region here; name a region.")
        if self.region not in REGIONS:
            raise GoogleError(
                "PERMISSION_DENIED", f"Permission denied on 'locations/{self.region}' (or it may not exist)."
            )

    def __str__(self) -> str:
        return f"projects/{self.project}/locations/{self.region}"

    def service_name(self, service_id: str) -> str:
        """The full name of a service in this location."""
        return f"{self}/services/{service_id}"


def split_name(full_name: str) -> tuple[str, str, str]:
    """Split the full name of a service or a revision into project, region and short name of the service."""
    _, project, _, region, _, service = full_name.split("/")[:6]
    return project, region, service


def short_name(full_name: str) -> str:
    """The last segment of a full name."""
    return full_name.rpartition("/")[2]


def not_found_error(full_name: str, kind: str = "SERVICE") -> GoogleError:
    """Google's error for a service (or a REVISION) that does not exist."""
    project, region, _ = split_name(full_name)
    return GoogleError(
        "NOT_FOUND",
        f"Resource '{short_name(full_name)}' of kind '{kind}' in region '{region}' in project '{project}' "
        "does not exist.",
    )
