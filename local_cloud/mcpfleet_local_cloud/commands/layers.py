"""The base image's layers as a registry holds them, kept in the cache for the next local cloud.

Docker compresses a layer anew for every registry that does not have it yet (5 s for the base image). It asks first
whether the registry has what it once made of that layer: so that is put there before the push. Nothing depends on it:
what is missing, or of no use to this Docker Engine, is pushed as ever.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

import httpx2

_SECONDS: Final = 60.0
_CHUNK: Final = 1 << 20
_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"


class Repository:
    """One repository of a registry.

    Args:
        url: The registry.
        name: The repository in it.
        login: User name and password.
        transport: What carries the requests; the network where it is not given.
    """

    def __init__(
        self, url: str, name: str, login: tuple[str, str], transport: httpx2.BaseTransport | None = None
    ) -> None:
        self._blobs = f"/v2/{name}/blobs"
        self._manifests = f"/v2/{name}/manifests"
        self._http = httpx2.Client(base_url=url, auth=login, timeout=_SECONDS, trust_env=False, transport=transport)

    def seed(self, kept: Path) -> None:
        """Put the layers kept in a folder into the repository; as many as it takes."""
        try:
            for file in sorted(kept.glob("sha256-*")) if kept.is_dir() else ():
                begun = self._http.post(f"{self._blobs}/uploads/")
                where = urljoin(str(begun.url), begun.headers.get("location", ""))
                self._http.put(where, params={"digest": file.name.replace("-", ":", 1)}, content=_read(file))
        except (OSError, httpx2.HTTPError):
            return  # they are pushed as ever

    def keep(self, tag: str, kept: Path) -> None:
        """Make *kept* the folder with the layers of the image *tag*, in place of what it held."""
        try:
            manifest: dict[str, Any] = self._http.get(f"{self._manifests}/{tag}", headers={"accept": _MANIFEST}).json()
            wanted = {str(layer["digest"]).replace(":", "-", 1) for layer in manifest["layers"]}
            if kept.is_dir() and wanted == {file.name for file in kept.iterdir()}:
                return
            kept.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".new-") as place:
                fresh = Path(place) / "layers"
                fresh.mkdir()
                for name in wanted:
                    self._fetch(name.replace("-", ":", 1), fresh / name)
                shutil.rmtree(kept, ignore_errors=True)
                fresh.rename(kept)
        except (OSError, ValueError, KeyError, TypeError, httpx2.HTTPError):
            return  # the next local cloud pushes as ever

    def _fetch(self, digest: str, file: Path) -> None:
        found = hashlib.sha256()
        with self._http.stream("GET", f"{self._blobs}/{digest}") as answer, file.open("wb") as out:
            for chunk in answer.raise_for_status().iter_bytes(_CHUNK):
                found.update(chunk)
                out.write(chunk)
        if f"sha256:{found.hexdigest()}" != digest:
            raise ValueError(f"{digest} is not what the registry sent")


def _read(file: Path) -> Iterator[bytes]:
    with file.open("rb") as content:
        while chunk := content.read(_CHUNK):
            yield chunk
