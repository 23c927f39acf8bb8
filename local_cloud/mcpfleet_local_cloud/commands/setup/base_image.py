"""The base image of every container that this machine builds: `mcpfleet/base:python3.13`.

It is built from the pinned `python:3.13-slim` of the Dockerfiles if Docker can pull it, else from Debian packages with
the same programs: `python`, `python3`, `pip`, venv, certificates. Both trust the certificate authorities that this
machine trusts. A label has the hash of the specification, so that a changed specification leads to a new image.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mcpfleet_local_cloud.commands.paths import PROGRAM, Paths
from mcpfleet_local_cloud.commands.phases import SetupError, Step
from mcpfleet_local_cloud.commands.setup.certificates import file_name
from mcpfleet_local_cloud.commands.setup.docker_api import EngineError, ReachableEngine
from mcpfleet_local_cloud.commands.setup.docker_install import install
from mcpfleet_local_cloud.commands.setup.host import Host
from mcpfleet_local_cloud.commands.setup.locks import cache_lock, replace, scratch_folder
from mcpfleet_local_cloud.docker_engine.facts import architecture_of
from mcpfleet_local_cloud.state.folder import Settings

BASE_IMAGE = Settings.base_image
SPEC_LABEL = "dev.mcpfleet.base"

_SUITE = "trixie"  # Debian 13, whose Python is 3.13
_PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_CERTIFICATES = "/usr/local/share/ca-certificates"
# uv and requests use certificate lists of their own unless these variables are set.
_TRUST = {"SSL_CERT_FILE": _BUNDLE, "REQUESTS_CA_BUNDLE": _BUNDLE}
# As in the official image: there is a program `python`, and pip may install into the system's Python.
_HOOKS = (
    'ln -s /usr/bin/python3 "$1/usr/local/bin/python"',
    'rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',
)
_DEBIAN_SECONDS = 900.0


@dataclass(frozen=True)
class BaseImageSpec:
    """The inputs of the base image.

    Attributes:
        reference: The pinned registry image, or the one that MCPFLEET_BASE_IMAGE names.
        certificates: PEM certificates that this machine trusts in addition to its distribution's.
        is_chosen: Whether the user named the image; then it is never built from Debian packages.
    """

    reference: str
    certificates: Sequence[str]
    is_chosen: bool = False

    @property
    def short_reference(self) -> str:
        """The reference without its digest."""
        return self.reference.partition("@")[0]

    @property
    def hash(self) -> str:
        """A short hash of all inputs of the image."""
        parts = [self.reference, _SUITE, _PACKAGES, *_HOOKS, *self.dockerfile_lines(""), *self.certificates]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def dockerfile_lines(self, spec_hash: str) -> list[str]:
        """Return the Dockerfile lines of an imported root file system."""
        return [
            f"ENV PATH={_PATH}",
            "ENV LANG=C.UTF-8",
            *(f"ENV {name}={value}" for name, value in _TRUST.items()),
            f"LABEL {SPEC_LABEL}={spec_hash}",
            'CMD ["python3"]',
        ]


def ensure_base_image(host: Host, paths: Paths, engine: ReachableEngine, spec: BaseImageSpec, step: Step) -> None:
    """Make sure that Docker has `BASE_IMAGE`, built from *spec*.

    Raises:
        SetupError: It can neither be pulled nor built here.
    """
    if _is_current(engine, spec):
        step.note("in place")
        return
    with cache_lock(paths.cache, "base-image", lambda: step.progress("waiting for another setup that builds it")):
        if _is_current(engine, spec):
            step.note("in place")
            return
        architecture = engine.facts().architecture
        tar = paths.cache / "base" / (spec.hash + ("" if architecture == "amd64" else f"-{architecture}") + ".tar")
        # If the tar exists, this machine could not pull the image before. Its user has tested with the built one.
        pull_error = "" if tar.exists() else _pull(engine, spec, tar.parent, step)
        if pull_error is None:
            step.note(f"from {spec.short_reference}")
            return
        if pull_error and spec.is_chosen:
            raise SetupError(
                f"MCPFLEET_BASE_IMAGE={spec.reference} can't be used: {pull_error}",
                "name an image that Docker has or can pull, or unset MCPFLEET_BASE_IMAGE.",
            )
        if not tar.exists():
            _make_tar(host, spec, tar, pull_error, step, architecture)
        step.progress("importing")
        try:
            engine.import_tar(tar, BASE_IMAGE, spec.dockerfile_lines(spec.hash))
        except EngineError as error:
            tar.unlink(missing_ok=True)
            raise SetupError(
                f"Docker could not import the base image: {error}", f"run {PROGRAM} again: it builds the image again."
            ) from error
        step.note("built from Debian packages" if pull_error else "imported from the cache")


def _is_current(engine: ReachableEngine, spec: BaseImageSpec) -> bool:
    facts = engine.image(BASE_IMAGE)
    return facts is not None and facts.labels.get(SPEC_LABEL) == spec.hash


def _pull(engine: ReachableEngine, spec: BaseImageSpec, scratch: Path, step: Step) -> str | None:
    """Build the base image from the registry's image; return None, or the error message."""
    try:
        if engine.image(spec.reference) is None:
            step.progress(f"pulling {spec.short_reference}")
            engine.pull(spec.reference)
        with scratch_folder(scratch, "context") as folder:
            write_context(folder, spec)
            labels = {SPEC_LABEL: spec.hash}
            engine.build(folder, BASE_IMAGE, args={"BASE_IMAGE": spec.reference}, labels=labels)
    except EngineError as error:
        return str(error)
    return None


def write_context(folder: Path, spec: BaseImageSpec) -> None:
    """Write a build context that adds the machine's certificates to the registry's image."""
    for pem in spec.certificates:
        (folder / file_name(pem)).write_text(pem, encoding="ascii")
    lines = ["ARG BASE_IMAGE", "FROM ${BASE_IMAGE}"]
    if spec.certificates:
        lines += [f"COPY *.crt {_CERTIFICATES}/", "RUN update-ca-certificates"]
        lines += [f"ENV {name}={value}" for name, value in _TRUST.items()]
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _make_tar(host: Host, spec: BaseImageSpec, tar: Path, pull_error: str, step: Step, architecture: str) -> None:
    """Build a root file system from Debian packages, for the Docker engine's architecture."""
    next_step = (
        f"make {spec.short_reference} reachable for Docker (a mirror, or a proxy), or set MCPFLEET_BASE_IMAGE to an "
        f"image with Python 3.13 that Docker has; then run {PROGRAM} again."
    )
    if host.which("mmdebstrap") is None:
        try:
            # Ubuntu has Debian's signing keys in a package of its own.
            install(host, step, ["mmdebstrap", "debian-archive-keyring"], next_step)
        except SetupError as error:
            raise SetupError(f"the base image can't be pulled ({pull_error}); {error.message}", next_step) from error
    step.progress("building it from Debian packages")
    with scratch_folder(tar.parent, tar.stem) as scratch:
        new_tar = scratch / "base.tar"
        hooks = [*_HOOKS]
        for pem in spec.certificates:
            (scratch / file_name(pem)).write_text(pem, encoding="ascii")
            hooks.append(f'cp "{scratch / file_name(pem)}" "$1{_CERTIFICATES}/"')
        if spec.certificates:
            hooks.append('chroot "$1" update-ca-certificates')
        argv = ["mmdebstrap", "--variant=minbase", f"--include={_PACKAGES}", *_debian_trims()]
        if architecture != architecture_of(host.platform()[1]):
            argv.append(
                f"--architectures={architecture}"
            )  # this needs emulation; without it mmdebstrap fails with a message
        done = host.run(
            [*argv, *(f"--customize-hook={hook}" for hook in hooks), _SUITE, new_tar], timeout=_DEBIAN_SECONDS
        )
        if done.code != 0 or not new_tar.exists():
            raise SetupError(
                f"the base image can't be pulled ({pull_error}), nor built from Debian packages:\n{done.tail()}",
                next_step,
            )
        for old_tar in tar.parent.glob("*.tar"):
            old_tar.unlink()
        replace(new_tar, tar)


def _debian_trims() -> list[str]:
    """Return options that leave out files which no container reads; this halves the time of the import."""
    unread = ("man", "locale", "doc", "info", "lintian", "bash-completion")
    trims = [f"path-exclude=/usr/share/{folder}/*" for folder in unread]
    return [f"--dpkgopt={trim}" for trim in [*trims, "path-include=/usr/share/doc/*/copyright"]]
