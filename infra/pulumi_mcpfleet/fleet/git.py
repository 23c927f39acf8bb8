"""A source that is a Git repository: its address, what mcpfleet fetches of it, and with which credentials."""

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from pulumi_mcpfleet.fleet import values
from pulumi_mcpfleet.fleet.base import Model
from pulumi_mcpfleet.fleet.built_source import BuiltSource, SourcePath
from pulumi_mcpfleet.fleet.field_docs import FieldDoc, pattern
from pulumi_mcpfleet.fleet.parts import SecretRef
from pulumi_mcpfleet.sources import git


def _check_url(value: str) -> str:
    # A token is often written in place of the user name. In an ssh address, the user name is not a secret.
    if re.match(r"[a-z]+://[^/@]*:[^/@]*@|https?://[^/]*@", value):
        raise ValueError("holds a password or a token; remove all up to @, and write token: {secret: …, version: …}")
    if reason := git.refusal_reason(value):
        raise ValueError(f"{value[:200]!r} {reason}")
    return value


GitUrl = Annotated[
    str,
    Field(max_length=2048),
    AfterValidator(_check_url),
    FieldDoc(
        "address",
        "addresses",
        "`https://…`, `ssh://…`, `USER@HOST:PATH`; from this machine itself `http://…`, `git://…`; no password, no `?`",
    ),
]

# Stricter than Git's own rule (git help check-ref-format). A ref that begins with - would be an option of the command.
_REF: Final = r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,254}"
GitRef = Annotated[
    str,
    values.matching(_REF, "is not a commit, a tag or a branch"),
    FieldDoc("ref", "refs", "a commit's whole id, a tag, or a branch", pattern(_REF)),
]


class GitRepository(Model):
    """A Git repository at a commit, tag or branch."""

    url: GitUrl = Field(description="The repository's address.", examples=["https://github.com/acme/weather-mcp.git"])
    ref: GitRef = Field(
        description=("The commit, tag or branch. Each `up` looks up a branch again, and deploys its current commit."),
        examples=["v1.2.0"],
    )
    dir: SourcePath = Field(
        default=".", description="The server's folder in the repository.", examples=["servers/weather"]
    )
    token: Annotated[SecretRef, FieldDoc("[version of a secret](#secrets)", "")] | None = Field(
        default=None,
        description=(
            "For a private repository: a token in Secret Manager, which the deployer reads. Without"
            " it, Git uses your own credentials."
        ),
        examples=[{"secret": "git-token", "version": "1"}],
    )

    submodules: bool = Field(
        default=False,
        description=(
            "Whether to fetch the repository's submodules. Set it only for a repository that you "
            "trust: submodules on the same host are fetched with your credentials, and become part "
            "of the image. Submodules on another host are fetched without credentials."
        ),
        examples=[True],
    )

    lfs: Literal["refuse", "pull", "pointers"] = Field(
        default="refuse",
        description=(
            "What to do with files in Git LFS. `refuse`: don't build. `pull`: download them with "
            "git-lfs from the repository's own server. `pointers`: build with the pointer files "
            "that stand for them."
        ),
        examples=["pull"],
    )

    @field_validator("token", mode="after")
    @classmethod
    def _require_https_for_token(cls, value: SecretRef | None, info: ValidationInfo) -> SecretRef | None:
        if value is not None and not str(info.data.get("url", "https://")).startswith("https://"):
            raise ValueError("a token is sent to https:// addresses only; write the address so, or remove the token")
        return value


class Git(BuiltSource):
    """An image that `up` builds from a Git repository, with or without a Dockerfile."""

    git: Annotated[GitRepository, FieldDoc("[repository](#a-git-repository)", "")] = Field(
        description="The repository.",
        examples=[{"url": "https://github.com/acme/weather-mcp.git", "ref": "v1.2.0"}],
    )
