"""Packs what runs in the gateway container: this room's modules on the standard library, the key and the settings."""

import io
import secrets
import tarfile
from importlib import resources
from typing import Final

from mcpfleet_local_cloud.gateway import protocol
from mcpfleet_local_cloud.gateway.container import Settings

FOLDER: Final = "/gateway"
"""Where `archive` belongs in the container, unpacked there: Docker lets nothing into a root that is read-only."""
COMMAND: Final = ("python", "-I", FOLDER)
_PACKAGE: Final = "mcpfleet_local_cloud.gateway"
_MODULES: Final = ("protocol", "relay", "resolver", "container")
_MAIN: Final = f"""\
from pathlib import Path

from {_PACKAGE}.container import main

main(Path(__file__).parent)
"""


def new_key() -> bytes:
    """A new cloud's key: who has it is the host to the gateway, and the gateway to the host."""
    return secrets.token_bytes(protocol.KEY_SIZE)


def archive(key: bytes, settings: Settings) -> bytes:
    """A tar file with everything; the same for the same arguments."""
    package = _PACKAGE.replace(".", "/")
    files = {f"{package}/{name}.py": (resources.files(_PACKAGE) / f"{name}.py").read_bytes() for name in _MODULES}
    files |= {"__main__.py": _MAIN.encode(), "settings.json": settings.to_json().encode(), "key": key}
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o444
            tar.addfile(entry, io.BytesIO(content))
    return written.getvalue()
