"""The store in a bucket of Cloud Storage, by its JSON API.

Preconditions make each write happen once: `ifGenerationMatch=0` creates, another number replaces exactly the object
that was read; otherwise the answer is 412 (cloud.google.com/storage/docs/request-preconditions).
"""

import asyncio
import time
from typing import Any, Final
from urllib.parse import quote

import httpx2

from mcpfleet_login.store import StoredObject, StoreError

STORAGE_URL: Final = "https://storage.googleapis.com"
METADATA_URL: Final = "http://metadata.google.internal"

_TOKEN_PATH: Final = "/computeMetadata/v1/instance/service-accounts/default/token"  # noqa: S105  # a path
_REQUEST_SECONDS: Final = 5.0
_MAX_OBJECT_BYTES: Final = 64 * 1024
_EARLY_SECONDS: Final = 60
"""How long before its end a token of the metadata server is replaced."""


class MetadataToken:
    """The access token of the service's account, from Cloud Run's metadata server."""

    def __init__(self, client: httpx2.AsyncClient, url: str = METADATA_URL) -> None:
        self._client = client
        self._url = f"{url}{_TOKEN_PATH}"
        self._token = ""
        self._valid_until = 0.0
        self._lock = asyncio.Lock()

    async def get(self) -> str:
        """Return a valid token.

        Raises:
            StoreError: The metadata server has none.
        """
        async with self._lock:
            if time.monotonic() >= self._valid_until:
                try:
                    answer = await self._client.get(self._url, headers={"metadata-flavor": "Google"})
                    document: Any = answer.raise_for_status().json()
                    self._token = str(document["access_token"])
                    self._valid_until = time.monotonic() + float(document["expires_in"]) - _EARLY_SECONDS
                except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
                    raise StoreError(f"The metadata server has no access token: {error}") from error
            return self._token


class CloudStorage:
    """Objects of one bucket, below a prefix.

    Args:
        bucket: The bucket's name.
        prefix: Stands before the name of each object.
        client: Sends the requests.
        token: Returns the access token.
        url: Where Cloud Storage answers.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str,
        client: httpx2.AsyncClient,
        token: MetadataToken,
        url: str = STORAGE_URL,
    ) -> None:
        self._objects = f"{url}/storage/v1/b/{quote(bucket, safe='')}/o"
        self._uploads = f"{url}/upload/storage/v1/b/{quote(bucket, safe='')}/o"
        self._prefix = prefix
        self._client = client
        self._token = token

    async def create(self, name: str, data: bytes) -> bool:
        """Create an object; see `Store.create`."""
        return await self._write(name, data, 0)

    async def replace(self, name: str, data: bytes, generation: int) -> bool:
        """Replace an object; see `Store.replace`."""
        return await self._write(name, data, generation)

    async def read(self, name: str) -> StoredObject | None:
        """Return an object; see `Store.read`."""
        url = f"{self._objects}/{quote(self._prefix + name, safe='')}"
        answer = await self._send("GET", url, params={"alt": "media"})
        if answer.status_code == 404:
            return None
        generation = answer.headers.get("x-goog-generation", "")
        if answer.status_code != 200 or not generation.isdecimal() or len(answer.content) > _MAX_OBJECT_BYTES:
            raise StoreError(f"Cloud Storage answered {answer.status_code} to a read")
        return StoredObject(answer.content, int(generation))

    async def _write(self, name: str, data: bytes, generation: int) -> bool:
        params = {"uploadType": "media", "name": self._prefix + name, "ifGenerationMatch": str(generation)}
        answer = await self._send(
            "POST", self._uploads, params=params, content=data, headers={"content-type": "application/octet-stream"}
        )
        if answer.status_code == 412 or (answer.status_code == 404 and generation):
            return False
        if answer.status_code != 200:
            raise StoreError(f"Cloud Storage answered {answer.status_code} to a write")
        return True

    async def _send(self, method: str, url: str, **options: Any) -> httpx2.Response:
        headers = {**options.pop("headers", {}), "authorization": f"Bearer {await self._token.get()}"}
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                return await self._client.request(method, url, headers=headers, **options)
        except TimeoutError as error:
            raise StoreError(f"Cloud Storage took longer than {_REQUEST_SECONDS:g} s") from error
        except httpx2.HTTPError as error:
            raise StoreError(f"Cloud Storage can't be reached: {error}") from error
