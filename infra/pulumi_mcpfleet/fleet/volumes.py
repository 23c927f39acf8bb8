"""The volumes of a server: memory, disk, a bucket, versions of a secret, or an NFS export; each with its mount path."""

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationInfo, field_validator

from pulumi_mcpfleet.fleet import identities, quantities, references, values
from pulumi_mcpfleet.fleet.base import PARENT, Mistake, Model, exactly_one_kind, kind_of, raise_if_any
from pulumi_mcpfleet.fleet.field_docs import FieldDoc


class InMemory(Model):
    """A folder in memory, which is empty when an instance starts."""

    memory: quantities.Size = Field(
        description="The maximum size. The files count towards the instance's memory.", examples=["64Mi"]
    )
    mount: values.MountPath = Field(
        description="The path at which the server's container mounts the volume.", examples=["/cache"]
    )


class OnDisk(Model):
    """A folder on the instance's own disk, which is empty when the instance starts."""

    disk: quantities.DiskSize = Field(
        description=(
            "The size. You pay for it as long as an instance runs. An instance can have 10 GB in "
            "all, unless the project has a quota for more."
        ),
        examples=["10Gi"],
    )
    mount: values.MountPath = Field(
        description="The path at which the server's container mounts the volume.", examples=["/scratch"]
    )


class Gcs(Model):
    """A bucket of Cloud Storage, and how it is mounted."""

    bucket: values.Bucket = Field(description="The bucket; it must exist.", examples=["acme-mcp-data"])
    read_only: bool = Field(default=True, description="Whether the server can only read the files.", examples=[False])


class GcsVolume(Model):
    """A bucket of Cloud Storage as a folder."""

    gcs: Annotated[Gcs, FieldDoc("[bucket](#volumes)", "")] = Field(
        description="The bucket. The server's account gets the role that it needs on the bucket.",
        examples=[{"bucket": "acme-mcp-data"}],
    )
    mount: values.MountPath = Field(
        description="The path at which the server's container mounts the volume.", examples=["/data"]
    )


def _refuse_number(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        # YAML reads 0400 as the number 256 or as 400, by its version: the user's intention is lost.
        raise ValueError(f'{value} is a number, which YAML reads as decimal or as octal; write it as "0440"')  # noqa: TRY004
    return value


# Cloud Run applies a umask of 0222 (SecretVolumeSource.default_mode), so that secrets are never writable.
_MODE: Final = r"0[0-7]{3}"


def _check_mode(value: str) -> str:
    if not re.fullmatch(_MODE, value) or int(value, 8) == 0:
        raise ValueError(
            f'{value[:20]!r} is not a mode; write it as "0440": 0, then a digit each for owner, group, all'
        )
    if int(value, 8) & 0o222:
        raise ValueError(f'{value} has a write bit, which Cloud Run removes; write "0{int(value, 8) & 0o555:03o}"')
    return value


Mode = Annotated[
    str,
    BeforeValidator(_refuse_number),
    AfterValidator(_check_mode),
    FieldDoc(
        "mode", "modes", '`"0400"`, `"0440"`, `"0444"` or another without a bit to write', {"pattern": f"^{_MODE}$"}
    ),
]

FileName = Annotated[
    str,
    values.matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", "is not a file's name; write one without folders"),
    FieldDoc("file", "files", "a name without folders"),
]
_ITEM: Final = r"[A-Za-z0-9._][A-Za-z0-9._-]*(/[A-Za-z0-9._][A-Za-z0-9._-]*){0,9}"


def _check_item(value: str) -> str:
    if not re.fullmatch(_ITEM, value) or len(value) > 255 or any(part in (".", "..") for part in value.split("/")):
        raise ValueError(f"{value[:200]!r} is not a file in the folder; write it as tools.yaml or certs/ca.pem")
    return value


ItemPath = Annotated[
    str, AfterValidator(_check_item), FieldDoc("file", "files", "a file in the folder, such as `certs/ca.pem`; no `..`")
]


class Item(Model):
    """One file of a secret's volume: the version that it contains, and its mode."""

    version: identities.SecretVersion = Field(description="The version that the file has.", examples=["2"])
    mode: Mode | None = Field(
        default=None, description="The file's permissions. Default: the volume's `mode`.", examples=["0400"]
    )


class SecretVolume(Model):
    """Versions of a secret as files in a folder: one file with `version` and `file`, or several with `items`."""

    secret: identities.SecretName = Field(description="The secret.", examples=["toolbox-config"])
    version: identities.SecretVersion | None = Field(
        default=None,
        description="The version, for a volume with one file. Use it together with `file`.",
        examples=["1"],
    )
    file: FileName | None = Field(
        default=None, description="The file's name in the folder, for a volume with one file.", examples=["tools.yaml"]
    )
    items: Annotated[
        dict[ItemPath, Annotated[Item, FieldDoc("", "[versions](#volumes)")]],
        FieldDoc("map of files to [versions](#volumes)", ""),
    ] = Field(
        default={},
        max_length=100,
        description="Several files instead of `version` and `file`: each is a version of this secret.",
        examples=[{"new.pem": {"version": "2"}, "old.pem": {"version": "1", "mode": "0400"}}],
    )
    mode: Mode | None = Field(
        default=None,
        description="The files' permissions. Default: every user in the container can read them.",
        examples=["0440"],
    )
    mount: values.MountPath = Field(
        description="The path at which the server's container mounts the folder.", examples=["/config"]
    )

    @field_validator("items", mode="after")
    @classmethod
    def _check_items(cls, value: dict[str, Item], info: ValidationInfo) -> dict[str, Item]:
        if not {"version", "file"} <= info.data.keys():
            return value  # one of the keys has a mistake of its own
        keys = [key for key in ("version", "file") if info.data[key] is not None]
        mistakes: list[Mistake] = []
        if value and keys:
            mistakes.append(
                ((), f"can't be combined with {keys[0]}; keep items for several files, or version and file for one")
            )
        elif not value:
            examples = {"version": 'version: "1"', "file": "file: tools.yaml"}
            mistakes += [((PARENT, key), f"missing; add {text}") for key, text in examples.items() if key not in keys]
        return raise_if_any(value, mistakes)

    @property
    def files(self) -> dict[str, Item]:
        """The volume's files by their paths in the folder."""
        if self.version is not None and self.file is not None:
            return {self.file: Item(version=self.version)}
        return self.items


class Nfs(Model):
    """An export of an NFS server, and how it is mounted."""

    server: references.NfsServer = Field(description="The NFS server, in your network.", examples=["10.0.0.2"])
    path: references.NfsPath = Field(description="The path that the server exports.", examples=["/share"])
    read_only: bool = Field(default=True, description="Whether the server can only read the files.", examples=[False])


class NfsVolume(Model):
    """An export of an NFS server as a folder; needs `vpc`."""

    nfs: Annotated[Nfs, FieldDoc("[export](#volumes)", "")] = Field(
        description="The export. Instances reach its server through `vpc`.",
        examples=[{"server": "10.0.0.2", "path": "/share"}],
    )
    mount: values.MountPath = Field(
        description="The path at which the server's container mounts the volume.", examples=["/data"]
    )


FileSystem = OnDisk | GcsVolume | NfsVolume
"""The volumes that only the second generation of the execution environment supports."""

_VOLUMES: Final = ("memory", "disk", "gcs", "secret", "nfs")


def _find_kind(value: Any) -> str | None:
    return kind_of(value, _VOLUMES)


Volume = Annotated[
    Annotated[InMemory, Tag("memory")]
    | Annotated[OnDisk, Tag("disk")]
    | Annotated[GcsVolume, Tag("gcs")]
    | Annotated[SecretVolume, Tag("secret")]
    | Annotated[NfsVolume, Tag("nfs")],
    Discriminator(_find_kind),
    exactly_one_kind("volume", _VOLUMES, common_keys=("mount",)),
    FieldDoc("[volume](#volumes)", "[volumes](#volumes)", "each one of `memory`, `disk`, `gcs`, `secret`, `nfs`"),
]
