"""The source of a server's image: a tagged union with one model for each kind."""

from typing import Annotated, Any, Final

from pydantic import AfterValidator, Discriminator, Field, Tag

from pulumi_mcpfleet.fleet import images, rules, values
from pulumi_mcpfleet.fleet.base import Model, exactly_one_kind, kind_of
from pulumi_mcpfleet.fleet.built_source import Builder, Folder, StageName
from pulumi_mcpfleet.fleet.field_docs import FieldDoc
from pulumi_mcpfleet.fleet.git import Git
from pulumi_mcpfleet.fleet.stdio import Registered, Stdio, resolve_registry_source

KINDS: Final = ("build", "image", "folder", "git", "stdio", "registry")


class Build(Model):
    """An image that `up` builds from a folder with a Dockerfile, and pushes to the stack's registry."""

    build: values.Folder = Field(
        description="The folder with the Dockerfile, as seen from Pulumi.yaml.", examples=["./my_server"]
    )
    build_args: rules.BuildArgs = Field(
        default={},
        description=("Values for the Dockerfile's ARGs. They stay visible in the image: don't put secrets here."),
        examples=[{"UV_VERSION": "0.13.9"}],
    )
    builder: Builder = "docker"
    port: rules.Port = Field(default=8080, description="The port that the container listens on.", examples=[5000])
    args: rules.Words = Field(
        default=(), max_length=1000, description="Arguments that replace the image's CMD.", examples=[["--http"]]
    )
    target: StageName = Field(
        default="", description="The stage of the Dockerfile to build. Default: the last one.", examples=["prod"]
    )


class ExistingImage(Model):
    """An existing image, which mcpfleet does not build; its reference is used unchanged."""

    image: images.ImageUrl = Field(
        description="The image. Profile `prod` requires a digest; a digest is the best choice everywhere.",
        examples=["docker.io/acme/toolbox:1"],
    )
    port: rules.Port = Field(default=8080, description="The port that the container listens on.", examples=[5000])
    args: rules.Words = Field(
        default=(),
        max_length=1000,
        description="Arguments that replace the image's CMD.",
        examples=[["--address=0.0.0.0", "--port=5000"]],
    )
    command: rules.Words = Field(
        default=(),
        max_length=1000,
        description="The program that replaces the image's ENTRYPOINT.",
        examples=[["/app/toolbox"]],
    )


def _find_kind(value: Any) -> str | None:
    return kind_of(value, KINDS)


Source = Annotated[
    Annotated[Build, Tag("build")]
    | Annotated[ExistingImage, Tag("image")]
    | Annotated[Folder, Tag("folder")]
    | Annotated[Git, Tag("git")]
    | Annotated[Stdio, Tag("stdio")]
    | Annotated[Registered, Tag("registry")],
    Discriminator(_find_kind),
    exactly_one_kind("source", KINDS),
    AfterValidator(resolve_registry_source),
    FieldDoc("[source](#source)", "sources", "one of `build`, `image`, `folder`, `git`, `stdio`, `registry`"),
]
"""The source of an image. The kind is the key that only one of the models has."""


def builds_in_cloud(source: object) -> bool:
    """Check whether Cloud Build builds the image of *source*."""
    return isinstance(source, Build | Folder | Git | Stdio | Registered) and source.builder == "cloud-build"
