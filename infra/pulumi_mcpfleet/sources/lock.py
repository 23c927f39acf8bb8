"""What a package of npm or PyPI brings along, locked: every version and its hash, in a folder beside Pulumi.yaml.

A lock answers one request: a package and what the fleet says about what it depends on. Its folder is named by both, so
that a request which changes has no lock until one is made. The files are those of the package managers themselves, by
the names that scanners look for.
"""

import datetime
import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from pulumi_mcpfleet.sources.build_plan import TOOLS_STAGE, BuildPlanError, packages
from pulumi_mcpfleet.sources.inside import is_file_in, read_in
from pulumi_mcpfleet.sources.stdio import NPM, Stdio, node_stage, npm_name

LOCKS: Final = "packages.lock"
"""The folder of all locks, beside Pulumi.yaml."""

COMMAND: Final = "mcpfleet packages lock"
PLACE: Final = "/lock"
"""Where the image of `Lock.dockerfile` has the files."""

_FILES: Final[Mapping[str, tuple[str, ...]]] = {
    "pypi": ("requirements.txt",),
    "npm": ("package.json", "package-lock.json"),
    "image": (),
}
_LARGEST: Final = 16 * 2**20
_NEWEST: Final = re.compile(r"^# nothing newer than ([0-9]{4}-[0-9]{2}-[0-9]{2})$", re.MULTILINE)


@dataclass(frozen=True)
class Lock:
    """The lock of one package, whether it has been made or not.

    Attributes:
        server: What is installed.
        base_image: The BASE_IMAGE that the fleet names; empty: the usual one.
    """

    server: Stdio
    base_image: str = ""

    @property
    def kind(self) -> str:
        """Whose package it is: npm or pypi; image where it is in one, which nothing locks but the image's digest."""
        return "npm" if self.server.npm is not None else "pypi" if self.server.pypi is not None else "image"

    @property
    def package(self) -> str:
        """The package with its version, as the fleet names it."""
        return self.server.npm or self.server.pypi or self.server.image or ""

    @property
    def folder(self) -> str:
        """Where its files are, as seen from Pulumi.yaml."""
        said: dict[str, Any] = {"bounds": [*self.server.bounds], "overrides": dict(self.server.overrides)}
        said |= {"before": self.server.before, "base": self.base_image}
        request = {self.kind: self.package, **{key: value for key, value in said.items() if value}}
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:8]
        return f"{LOCKS}/{self.kind}/{re.sub(r'[^A-Za-z0-9.+]+', '-', self.package).strip('.-')}-{digest}"

    def there(self, root: Path) -> bool:
        """Whether it has been made.

        Args:
            root: The folder of Pulumi.yaml.
        """
        return all(is_file_in(root, f"{self.folder}/{name}") for name in _FILES[self.kind])

    def read(self, root: Path) -> Mapping[str, bytes]:
        """Its files by their names; empty where it has not been made.

        Args:
            root: The folder of Pulumi.yaml.

        Raises:
            BuildPlanError: One can't be read.
        """
        if not self.there(root):
            return {}
        try:
            return {name: read_in(root, f"{self.folder}/{name}", _LARGEST) for name in _FILES[self.kind]}
        except OSError as error:
            raise BuildPlanError.of("", f"the lock {self.folder} can't be read: {error}") from None

    def newest(self, today: datetime.date, days: int) -> str:
        """The date of the newest package that it may hold: some days old, and not after the fleet's own `before`."""
        aged = (today - datetime.timedelta(days=days)).isoformat()
        return min(aged, self.server.before or aged)

    def dockerfile(self, newest: str) -> str:
        """What makes it: a Dockerfile without a context, whose image has the files in PLACE.

        Package managers run code of packages while they look for what these need, so they do it there, by the same
        versions that will install them.

        Args:
            newest: A date; nothing that was published later is taken.
        """
        return TOOLS_STAGE + (self._npm(newest) if self.kind == "npm" else self._pypi(newest))

    def _pypi(self, newest: str) -> str:
        lines = " ".join(shlex.quote(one) for one in (self.package, *self.server.bounds))
        return f"""
FROM tools AS lock
WORKDIR {PLACE}
{packages(self.server.apt_build)}RUN printf '%s\\n' {lines} > /tmp/requirements.in \\
    && uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --exclude-newer {newest} \\
    --output-file requirements.txt /tmp/requirements.in \\
    && sed -i '1i # {self.package}, by {COMMAND}\\n# nothing newer than {newest}' requirements.txt
"""

    def _npm(self, newest: str) -> str:
        name = npm_name(self.package)
        manifest = {"private": True, "dependencies": {name: self.package.removeprefix(f"{name}@")}}
        if self.server.overrides:
            manifest["overrides"] = dict(self.server.overrides)
        return f"""
FROM tools AS lock
WORKDIR {PLACE}
{node_stage()}RUN printf '%s' {shlex.quote(json.dumps(manifest))} > package.json \\
    && {NPM} install --package-lock-only --ignore-scripts --omit-lockfile-registry-resolved --no-audit --no-fund \\
    --no-update-notifier --loglevel=error --before={newest}
"""

    def keep(self, made: Path, root: Path) -> Path:
        """Take over what was made.

        Args:
            made: A folder with the files.
            root: The folder of Pulumi.yaml.

        Returns:
            The lock's folder.

        Raises:
            BuildPlanError: Something in it has no hash, or a file is missing.
        """
        files = {name: (made / name).read_bytes() for name in _FILES[self.kind] if is_file_in(made, name)}
        if len(files) < len(_FILES[self.kind]):
            raise BuildPlanError.of("", f"{self.package}: no lock came of it")
        if self.kind == "npm":
            self._all_have_a_hash(json.loads(files["package-lock.json"]))
        place = root / self.folder
        place.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (place / name).write_bytes(content)
        return place

    def _all_have_a_hash(self, said: dict[str, Any]) -> None:
        """Each line of uv's locks has one; npm leaves it out for what is of no registry, such as a git repository."""
        inner = cast("dict[str, dict[str, Any]]", said.get("packages", {}))
        lacking = sorted(
            name.rpartition("node_modules/")[2]
            for name, one in inner.items()
            if name and not one.get("integrity") and not one.get("inBundle")
        )
        if lacking:
            sentence = f"{', '.join(lacking[:5])} of {self.package} comes from no registry and has no hash, so nothing"
            raise BuildPlanError.of("", f"{sentence} can lock it; use another package, or a repository with a lock")


def lock_of(server: Stdio, build_args: Mapping[str, str]) -> Lock:
    """The lock of a stdio server's package."""
    return Lock(server, build_args.get("BASE_IMAGE", ""))


def newest_of(files: Mapping[str, bytes]) -> str:
    """The date up to which a lock of PyPI took packages; empty where it does not say."""
    found = _NEWEST.search(files.get("requirements.txt", b"").decode("utf-8", "replace"))
    return found[1] if found else ""
