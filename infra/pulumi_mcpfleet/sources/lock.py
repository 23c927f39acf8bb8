"""The lock of a package of npm or PyPI: the versions and hashes of its dependencies, in a folder beside Pulumi.yaml.

A lock belongs to a package and to the fleet's options for its dependencies. The folder's name depends on both, so a
changed option needs a new lock. The files are those of the package managers, with the names that scanners look for.
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

from pulumi_mcpfleet.sources.build_plan import TOOLS_STAGE, BuildPlanError, apt_line
from pulumi_mcpfleet.sources.safe_paths import is_file_in, read_file_in
from pulumi_mcpfleet.sources.stdio import NPM, StdioSpec, node_stage, npm_name

LOCKS: Final = "packages.lock"
"""The folder of all locks, beside Pulumi.yaml."""

COMMAND: Final = "mcpfleet packages lock"
IMAGE_FOLDER: Final = "/lock"
"""The folder of the lock's files in the image of `Lock.dockerfile`."""

_FILES: Final[Mapping[str, tuple[str, ...]]] = {
    "pypi": ("requirements.txt",),
    "npm": ("package.json", "package-lock.json"),
    "image": (),
}
_MAX_BYTES: Final = 16 * 2**20
_NEWEST_DATE: Final = re.compile(r"^# nothing newer than ([0-9]{4}-[0-9]{2}-[0-9]{2})$", re.MULTILINE)


@dataclass(frozen=True)
class Lock:
    """The lock of one package, whether it exists or not.

    Attributes:
        server: The package and its options.
        base_image: The fleet's BASE_IMAGE; empty for the default.
    """

    server: StdioSpec
    base_image: str = ""

    @property
    def kind(self) -> str:
        """The package's registry: npm or pypi; or image, which has no lock but its digest."""
        return "npm" if self.server.npm is not None else "pypi" if self.server.pypi is not None else "image"

    @property
    def package(self) -> str:
        """The package with its version, as the fleet names it."""
        return self.server.npm or self.server.pypi or self.server.image or ""

    @property
    def folder(self) -> str:
        """The folder of its files, relative to the folder of Pulumi.yaml."""
        options: dict[str, Any] = {"bounds": [*self.server.bounds], "overrides": dict(self.server.overrides)}
        options |= {"before": self.server.before, "base": self.base_image}
        request = {self.kind: self.package, **{key: value for key, value in options.items() if value}}
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:8]
        return f"{LOCKS}/{self.kind}/{re.sub(r'[^A-Za-z0-9.+]+', '-', self.package).strip('.-')}-{digest}"

    def exists(self, root: Path) -> bool:
        """Whether all files of the lock exist.

        Args:
            root: The folder of Pulumi.yaml.
        """
        return all(is_file_in(root, f"{self.folder}/{name}") for name in _FILES[self.kind])

    def read(self, root: Path) -> Mapping[str, bytes]:
        """Read its files, by name. Returns an empty mapping if the lock does not exist.

        Args:
            root: The folder of Pulumi.yaml.

        Raises:
            BuildPlanError: A file can't be read.
        """
        if not self.exists(root):
            return {}
        try:
            return {name: read_file_in(root, f"{self.folder}/{name}", _MAX_BYTES) for name in _FILES[self.kind]}
        except OSError as error:
            raise BuildPlanError.of("", f"the lock {self.folder} can't be read: {error}") from None

    def newest_date(self, today: datetime.date, days: int) -> str:
        """Return the date after which no package is taken: some days ago, and not after the fleet's `before`."""
        latest = (today - datetime.timedelta(days=days)).isoformat()
        return min(latest, self.server.before or latest)

    def dockerfile(self, newest_date: str) -> str:
        """Return a Dockerfile that needs no context, and whose image has the lock's files in `IMAGE_FOLDER`.

        Package managers run code of packages to find their dependencies. So they run in a container, in the same
        versions that install the packages later.

        Args:
            newest_date: The date after which no package is taken.
        """
        return TOOLS_STAGE + (self._npm(newest_date) if self.kind == "npm" else self._pypi(newest_date))

    def _pypi(self, newest_date: str) -> str:
        lines = " ".join(shlex.quote(requirement) for requirement in (self.package, *self.server.bounds))
        return f"""
FROM tools AS lock
WORKDIR {IMAGE_FOLDER}
{apt_line(self.server.apt_build)}RUN printf '%s\\n' {lines} > /tmp/requirements.in \\
    && uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --exclude-newer {newest_date} \\
    --output-file requirements.txt /tmp/requirements.in \\
    && sed -i '1i # {self.package}, by {COMMAND}\\n# nothing newer than {newest_date}' requirements.txt
"""

    def _npm(self, newest_date: str) -> str:
        name = npm_name(self.package)
        manifest = {"private": True, "dependencies": {name: self.package.removeprefix(f"{name}@")}}
        if self.server.overrides:
            manifest["overrides"] = dict(self.server.overrides)
        return f"""
FROM tools AS lock
WORKDIR {IMAGE_FOLDER}
{node_stage()}RUN printf '%s' {shlex.quote(json.dumps(manifest))} > package.json \\
    && {NPM} install --package-lock-only --ignore-scripts --omit-lockfile-registry-resolved --no-audit --no-fund \\
    --no-update-notifier --loglevel=error --before={newest_date}
"""

    def save(self, built: Path, root: Path) -> Path:
        """Save the files of a lock that has been built.

        Args:
            built: The folder with the files.
            root: The folder of Pulumi.yaml.

        Returns:
            The lock's folder.

        Raises:
            BuildPlanError: A package has no hash, or a file is missing.
        """
        files = {name: (built / name).read_bytes() for name in _FILES[self.kind] if is_file_in(built, name)}
        if len(files) < len(_FILES[self.kind]):
            raise BuildPlanError.of("", f"{self.package}: the build created no lock; run the command again")
        if self.kind == "npm":
            self._check_hashes(json.loads(files["package-lock.json"]))
        folder = root / self.folder
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return folder

    def _check_hashes(self, lock: dict[str, Any]) -> None:
        """Check that npm's lock has a hash for each package: npm writes none for git repositories, for example.

        uv's locks always have hashes.
        """
        entries = cast("dict[str, dict[str, Any]]", lock.get("packages", {}))
        unhashed = sorted(
            name.rpartition("node_modules/")[2]
            for name, entry in entries.items()
            if name and not entry.get("integrity") and not entry.get("inBundle")
        )
        if unhashed:
            message = f"{', '.join(unhashed[:5])} of {self.package} comes from no registry and has no hash, so nothing"
            raise BuildPlanError.of("", f"{message} can lock it; use another package, or a repository with a lock")


def lock_for(server: StdioSpec, build_args: Mapping[str, str]) -> Lock:
    """Return the lock of a stdio server's package."""
    return Lock(server, build_args.get("BASE_IMAGE", ""))


def read_newest_date(files: Mapping[str, bytes]) -> str:
    """Read the date after which a lock of PyPI took no package; empty if it has none."""
    match = _NEWEST_DATE.search(files.get("requirements.txt", b"").decode("utf-8", "replace"))
    return match[1] if match else ""
