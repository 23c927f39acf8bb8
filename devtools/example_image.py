"""Builds the example image `mcpfleet-examples/toolbox:1`, for the server of the local fleet with an existing image."""

import hashlib
from pathlib import Path

from mcpfleet_local_cloud.commands.paths import PROGRAM, Paths
from mcpfleet_local_cloud.commands.phases import SetupError, Step
from mcpfleet_local_cloud.commands.setup.base_image import BASE_IMAGE
from mcpfleet_local_cloud.commands.setup.docker_api import EngineError, ReachableEngine
from mcpfleet_local_cloud.commands.setup.locks import cache_lock

TOOLBOX_FOLDER = "examples/toolbox"
TOOLBOX_IMAGE = "mcpfleet-examples/toolbox:1"
CONTENT_LABEL = "dev.mcpfleet.content"


def content_hash(folder: Path, *ingredients: str) -> str:
    """Return a short hash of a folder's files (names and content) and of other inputs of the image."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        for part in (str(path.relative_to(folder)).encode(), path.read_bytes()):
            digest.update(len(part).to_bytes(8, "big") + part)
    for ingredient in ingredients:
        digest.update(b"\0" + ingredient.encode())
    return digest.hexdigest()[:16]


def find_toolbox_image(paths: Paths, engine: ReachableEngine, recipe_hash: str, step: Step) -> None:
    """Build the example image, unless it exists with the same content and base image.

    Raises:
        SetupError: The build failed.
    """
    folder = paths.root / TOOLBOX_FOLDER
    expected_hash = content_hash(folder, recipe_hash)

    def is_current() -> bool:
        facts = engine.image(TOOLBOX_IMAGE)
        return facts is not None and facts.labels.get(CONTENT_LABEL) == expected_hash

    if is_current():
        step.note("in place")
        return
    with cache_lock(paths.cache, "toolbox-image", lambda: step.progress("another setup is building it; waiting")):
        if is_current():
            step.note("in place")
            return
        step.progress("building")
        try:
            engine.build(folder, TOOLBOX_IMAGE, args={"BASE_IMAGE": BASE_IMAGE}, labels={CONTENT_LABEL: expected_hash})
        except EngineError as error:
            raise SetupError(
                f"the example image {TOOLBOX_IMAGE} could not be built:\n{error}",
                f"if a package could not be fetched, check the network and proxy settings; then run {PROGRAM} again.",
            ) from error
        step.note("built")
