"""Packs the files of the gateway container: the modules here that need only the standard library, key and settings."""

import io
import secrets
import tarfile
from importlib import resources
from typing import Final

from mcpfleet_local_cloud.gateway import protocol
from mcpfleet_local_cloud.gateway.container import Settings

FOLDER: Final = "/gateway"
"""The container's folder for the files of `create_archive`; it is a volume, because the root is read-only."""
COMMAND: Final = ("python", "-I", FOLDER)
_PACKAGE: Final = "mcpfleet_local_cloud.gateway"
_MODULES: Final = ("protocol", "relay", "resolver", "container")
_MAIN: Final = f"""\
from pathlib import Path

from {_PACKAGE}.container import main

main(Path(__file__).parent)
"""


def create_key() -> bytes:
    """Create the key of a new cloud, by which host and gateway authenticate each other."""
    return secrets.token_bytes(protocol.KEY_SIZE)


def create_archive(key: bytes, settings: Settings) -> bytes:
    """Create a tar file with all files; it is identical for the same arguments."""
    package = _PACKAGE.replace(".", "/")
    files = {f"{package}/{name}.py": (resources.files(_PACKAGE) / f"{name}.py").read_bytes() for name in _MODULES}
    files |= {"__main__.py": _MAIN.encode(), "settings.json": settings.to_json().encode(), "key": key}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o444
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
