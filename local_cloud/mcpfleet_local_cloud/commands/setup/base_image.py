"""The base image of every container that this machine builds: `mcpfleet/base:python3.13`.

It is the pinned `python:3.13-slim` of the Dockerfiles where a registry hands it out, else one made from
Debian's packages that offers the same: `python`, `python3`, `pip`, venv, certificates. In both cases it trusts
what this machine trusts. A label holds the recipe's hash, so that a changed recipe makes a new image.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mcpfleet_local_cloud.commands.paths import PROGRAM, Paths
from mcpfleet_local_cloud.commands.phases import SetupError, Step
from mcpfleet_local_cloud.commands.setup.certificates import file_name
from mcpfleet_local_cloud.commands.setup.docker_engine import install
from mcpfleet_local_cloud.commands.setup.engine import EngineError, ReachableEngine
from mcpfleet_local_cloud.commands.setup.host import Host
from mcpfleet_local_cloud.commands.setup.locks import cache_lock, replace, scratch_folder
from mcpfleet_local_cloud.docker_engine.facts import architecture_of
from mcpfleet_local_cloud.state.folder import Settings

BASE_IMAGE = Settings.base_image
RECIPE_LABEL = "dev.mcpfleet.base"

_SUITE = "trixie"  # Debian 13, whose Python is 3.13
_PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_CERTIFICATES = "/usr/local/share/ca-certificates"
# uv and requests carry lists of their own unless these say otherwise.
_TRUST = {"SSL_CERT_FILE": _BUNDLE, "REQUESTS_CA_BUNDLE": _BUNDLE}
# As in the official image: `python` is a name, and pip installs where it is told to.
_HOOKS = (
    'ln -s /usr/bin/python3 "$1/usr/local/bin/python"',
    'rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',
)
_DEBIAN_SECONDS = 900.0


@dataclass(frozen=True)
class BaseImageSpec:
    """What the base image is made from.

    Attributes:
        reference: The pinned registry image, or the one that MCPFLEET_BASE_IMAGE names.
        certificates: PEM certificates that this machine trusts beyond its distribution's.
        chosen: Whether the user named the image; then there is no other way to it.
    """

    reference: str
    certificates: Sequence[str]
    chosen: bool = False

    @property
    def short(self) -> str:
        """The reference without its digest."""
        return self.reference.partition("@")[0]

    @property
    def hash(self) -> str:
        """A short hash of all that decides the image's content."""
        parts = [self.reference, _SUITE, _PACKAGES, *_HOOKS, *self.changes(""), *self.certificates]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def changes(self, recipe_hash: str) -> list[str]:
        """Return the Dockerfile lines of an imported root file system."""
        return [
            f"ENV PATH={_PATH}",
            "ENV LANG=C.UTF-8",
            *(f"ENV {name}={value}" for name, value in _TRUST.items()),
            f"LABEL {RECIPE_LABEL}={recipe_hash}",
            'CMD ["python3"]',
        ]


def find_base_image(host: Host, paths: Paths, engine: ReachableEngine, recipe: BaseImageSpec, step: Step) -> None:
    """Make sure that `BASE_IMAGE` is there and is what the recipe says.

    Raises:
        SetupError: It can neither be pulled nor made here.
    """
    if _is_current(engine, recipe):
        step.note("in place")
        return
    with cache_lock(paths.cache, "base-image", lambda: step.progress("another setup is making it; waiting")):
        if _is_current(engine, recipe):
            step.note("in place")
            return
        architecture = engine.facts().architecture
        tar = paths.cache / "base" / (recipe.hash + ("" if architecture == "amd64" else f"-{architecture}") + ".tar")
        # A tar means: this machine once could not pull. It is the image that was tested with here.
        refusal = "" if tar.exists() else _pull(engine, recipe, tar.parent, step)
        if refusal is None:
            step.note(f"from {recipe.short}")
            return
        if refusal and recipe.chosen:
            raise SetupError(
                f"MCPFLEET_BASE_IMAGE={recipe.reference} can't be used: {refusal}",
                "name an image that Docker has or can pull, or unset MCPFLEET_BASE_IMAGE.",
            )
        if not tar.exists():
            _make_tar(host, recipe, tar, refusal, step, architecture)
        step.progress("importing")
        try:
            engine.import_tar(tar, BASE_IMAGE, recipe.changes(recipe.hash))
        except EngineError as error:
            tar.unlink(missing_ok=True)
            raise SetupError(
                f"Docker refuses the base image: {error}", f"run {PROGRAM} again: it is made anew."
            ) from error
        step.note("made from Debian packages" if refusal else "imported from the cache")


def _is_current(engine: ReachableEngine, recipe: BaseImageSpec) -> bool:
    facts = engine.image(BASE_IMAGE)
    return facts is not None and facts.labels.get(RECIPE_LABEL) == recipe.hash


def _pull(engine: ReachableEngine, recipe: BaseImageSpec, scratch: Path, step: Step) -> str | None:
    """Make the base image from a registry's; return None when done, else why not."""
    try:
        if engine.image(recipe.reference) is None:
            step.progress(f"pulling {recipe.short}")
            engine.pull(recipe.reference)
        with scratch_folder(scratch, "context") as folder:
            write_context(folder, recipe)
            labels = {RECIPE_LABEL: recipe.hash}
            engine.build(folder, BASE_IMAGE, args={"BASE_IMAGE": recipe.reference}, labels=labels)
    except EngineError as error:
        return str(error)
    return None


def write_context(folder: Path, recipe: BaseImageSpec) -> None:
    """Write a build context that makes a registry's image ours: a label, and the machine's certificates."""
    for pem in recipe.certificates:
        (folder / file_name(pem)).write_text(pem, encoding="ascii")
    lines = ["ARG BASE_IMAGE", "FROM ${BASE_IMAGE}"]
    if recipe.certificates:
        lines += [f"COPY *.crt {_CERTIFICATES}/", "RUN update-ca-certificates"]
        lines += [f"ENV {name}={value}" for name, value in _TRUST.items()]
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _make_tar(host: Host, recipe: BaseImageSpec, tar: Path, refusal: str, step: Step, architecture: str) -> None:
    """Make a root file system of Debian's packages, for the machine of the engine."""
    by_hand = (
        f"make {recipe.short} reachable for Docker (a mirror, or a proxy), or set MCPFLEET_BASE_IMAGE to an image "
        f"with Python 3.13 that Docker has; then run {PROGRAM} again."
    )
    if host.which("mmdebstrap") is None:
        try:
            # Ubuntu has Debian's signing keys in a package of its own.
            install(host, step, ["mmdebstrap", "debian-archive-keyring"], by_hand)
        except SetupError as error:
            raise SetupError(f"the base image can't be pulled ({refusal}); {error.message}", by_hand) from error
    step.progress("making it from Debian packages")
    with scratch_folder(tar.parent, tar.stem) as scratch:
        made = scratch / "base.tar"
        hooks = [*_HOOKS]
        for pem in recipe.certificates:
            (scratch / file_name(pem)).write_text(pem, encoding="ascii")
            hooks.append(f'cp "{scratch / file_name(pem)}" "$1{_CERTIFICATES}/"')
        if recipe.certificates:
            hooks.append('chroot "$1" update-ca-certificates')
        argv = ["mmdebstrap", "--variant=minbase", f"--include={_PACKAGES}", *_debian_trims()]
        if architecture != architecture_of(host.platform()[1]):
            argv.append(f"--architectures={architecture}")  # which takes emulation; without one it says so itself
        done = host.run([*argv, *(f"--customize-hook={hook}" for hook in hooks), _SUITE, made], timeout=_DEBIAN_SECONDS)
        if done.code != 0 or not made.exists():
            raise SetupError(
                f"the base image can't be pulled ({refusal}), nor made from Debian packages:\n{done.tail()}", by_hand
            )
        for old in tar.parent.glob("*.tar"):
            old.unlink()
        replace(made, tar)


def _debian_trims() -> list[str]:
    """Leave out what no container reads; it halves the time of the import."""
    unread = ("man", "locale", "doc", "info", "lintian", "bash-completion")
    trims = [f"path-exclude=/usr/share/{folder}/*" for folder in unread]
    return [f"--dpkgopt={trim}" for trim in [*trims, "path-include=/usr/share/doc/*/copyright"]]
