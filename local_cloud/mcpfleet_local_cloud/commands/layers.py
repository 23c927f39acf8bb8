"""Caches the base image's compressed layers, so that the next local cloud's registry gets them without compression.

Docker compresses a layer again for every registry that does not have it yet (5 s for the base image). Before a push, it
asks whether the registry has the blob that it once made of the layer: so the cached blobs are uploaded before the push.
This is an optimisation only: Docker pushes every layer that is missing or that it does not recognise.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

import httpx2

_TIMEOUT_SECONDS: Final = 60.0
_CHUNK: Final = 1 << 20
_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"


class Repository:
    """One repository of a registry.

    Args:
        url: The registry.
        name: The repository in it.
        login: User name and password.
        transport: The HTTP transport. Default: the network.
    """

    def __init__(
        self, url: str, name: str, login: tuple[str, str], transport: httpx2.BaseTransport | None = None
    ) -> None:
        self._blobs = f"/v2/{name}/blobs"
        self._manifests = f"/v2/{name}/manifests"
        self._http = httpx2.Client(
            base_url=url, auth=login, timeout=_TIMEOUT_SECONDS, trust_env=False, transport=transport
        )

    def upload_layers(self, layers: Path) -> None:
        """Upload the cached layers in the folder *layers* to the repository; stop at the first failure."""
        try:
            for file in sorted(layers.glob("sha256-*")) if layers.is_dir() else ():
                upload = self._http.post(f"{self._blobs}/uploads/")
                upload_url = urljoin(str(upload.url), upload.headers.get("location", ""))
                self._http.put(
                    upload_url, params={"digest": file.name.replace("-", ":", 1)}, content=_read_chunks(file)
                )
        except (OSError, httpx2.HTTPError):
            return  # Docker pushes them

    def save_layers(self, tag: str, layers: Path) -> None:
        """Replace the folder *layers* by one with the layers of the image *tag*; leave it on a failure."""
        try:
            manifest: dict[str, Any] = self._http.get(f"{self._manifests}/{tag}", headers={"accept": _MANIFEST}).json()
            names = {str(layer["digest"]).replace(":", "-", 1) for layer in manifest["layers"]}
            if layers.is_dir() and names == {file.name for file in layers.iterdir()}:
                return
            layers.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=layers.parent, prefix=".new-") as scratch:
                new_layers = Path(scratch) / "layers"
                new_layers.mkdir()
                for name in names:
                    self._fetch(name.replace("-", ":", 1), new_layers / name)
                shutil.rmtree(layers, ignore_errors=True)
                new_layers.rename(layers)
        except (OSError, ValueError, KeyError, TypeError, httpx2.HTTPError):
            return  # Docker pushes them to the next local cloud

    def _fetch(self, digest: str, file: Path) -> None:
        digester = hashlib.sha256()
        with self._http.stream("GET", f"{self._blobs}/{digest}") as response, file.open("wb") as out:
            for chunk in response.raise_for_status().iter_bytes(_CHUNK):
                digester.update(chunk)
                out.write(chunk)
        if f"sha256:{digester.hexdigest()}" != digest:
            raise ValueError(f"{digest} is not what the registry sent")


def _read_chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as content:
        while chunk := content.read(_CHUNK):
            yield chunk
