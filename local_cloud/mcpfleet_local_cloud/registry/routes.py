"""The OCI Distribution API at `/v2/`: parses and renders; `catalog.py` decides.

Who may push and pull is Artifact Registry's decision, in its words: a caller shows an OAuth access token as the
password of `oauth2accesstoken` (cloud.google.com/artifact-registry/docs/docker/authentication) or as a bearer.

Python's packages for this API are clients; none serves it.
"""

import base64
import binascii
import json
import re
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.registry.blobs import DigestMismatchError, UploadBusyError, is_digest
from mcpfleet_local_cloud.registry.catalog import Catalog, ImageName, RegistryError
from mcpfleet_local_cloud.rest.errors import GoogleError
from mcpfleet_local_cloud.rest.json_api import parse_number

_PULL: Final = "artifactregistry.repositories.downloadArtifacts"
_PUSH: Final = "artifactregistry.repositories.uploadArtifacts"
_DELETE: Final = "artifactregistry.repositories.deleteArtifacts"
_MANIFEST_LIMIT: Final = 4 << 20
_CODES: Final = {401: "UNAUTHORIZED", 403: "DENIED", 404: "NAME_UNKNOWN"}

_BLOB: Final = re.compile(r"(?P<name>.+)/blobs/(?P<digest>[^/]+)")
_UPLOADS: Final = re.compile(r"(?P<name>.+)/blobs/uploads/?")
_UPLOAD: Final = re.compile(r"(?P<name>.+)/blobs/uploads/(?P<upload>[0-9a-zA-Z-]+)")
_MANIFEST: Final = re.compile(r"(?P<name>.+)/manifests/(?P<reference>[^/]+)")
_TAGS: Final = re.compile(r"(?P<name>.+)/tags/list")
_RANGE: Final = re.compile(r"bytes=(?:(\d{1,18})-(\d{1,18})?|-\d{1,18})", re.ASCII)
_REFERRERS: Final = re.compile(r"(?P<name>.+)/referrers/(?P<digest>[^/]+)")

Handler = Callable[[Request, ImageName, dict[str, str]], Awaitable[Response]]


class Access(Protocol):
    """What the registry asks before it acts (Artifact Registry answers)."""

    def check(self, token: str | None, permission: str, image: ImageName) -> None:
        """Return where the caller may; *token* is the OAuth access token shown, or None.

        Raises:
            GoogleError: UNAUTHENTICATED, PERMISSION_DENIED, NOT_FOUND (no such repository).
        """
        ...

    def authenticate(self, token: str) -> None:
        """Return where *token* is somebody's; `docker login` asks this.

        Raises:
            GoogleError: UNAUTHENTICATED, PERMISSION_DENIED.
        """
        ...

    def pushed(self, image: ImageName) -> None:
        """A manifest was added to the image: cleanup policies may now apply."""
        ...


def routes(catalog: Catalog, access: Access) -> list[BaseRoute]:
    """The registry's routes."""
    registry = _Registry(catalog, access)
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    return [Route("/v2/", registry.root), Route("/v2/{rest:path}", registry.dispatch, methods=methods)]


class _Registry:
    def __init__(self, catalog: Catalog, access: Access) -> None:
        self._catalog = catalog
        self._access = access
        # The first pattern that matches wins: an upload's URL is also a blob's.
        self._table: list[tuple[re.Pattern[str], dict[str, tuple[str, Handler]]]] = [
            (_UPLOADS, {"POST": (_PUSH, self._begin)}),
            (
                _UPLOAD,
                {
                    "GET": (_PUSH, self._status),
                    "PATCH": (_PUSH, self._append),
                    "PUT": (_PUSH, self._finish),
                    "DELETE": (_PUSH, self._cancel),
                },
            ),
            (
                _BLOB,
                {"GET": (_PULL, self._blob), "HEAD": (_PULL, self._blob), "DELETE": (_DELETE, self._unlink)},
            ),
            (
                _MANIFEST,
                {
                    "GET": (_PULL, self._manifest),
                    "HEAD": (_PULL, self._manifest),
                    "PUT": (_PUSH, self._put_manifest),
                    "DELETE": (_DELETE, self._delete_manifest),
                },
            ),
            (_TAGS, {"GET": (_PULL, self._tags)}),
            (_REFERRERS, {"GET": (_PULL, self._referrers)}),
        ]

    async def root(self, request: Request) -> Response:
        """`GET /v2/`: a client asks here how to authenticate."""
        token = _token(request)
        if token is None:
            return _refusal(401, "UNAUTHORIZED", "authentication required")
        try:
            self._access.authenticate(token)
        except GoogleError as refused:
            return _refusal(refused.http_code, _CODES.get(refused.http_code, "UNSUPPORTED"), refused.message)
        return JSONResponse({})

    async def dispatch(self, request: Request) -> Response:
        """Find the handler, ask for permission, answer."""
        rest = request.path_params["rest"]
        for pattern, handlers in self._table:
            if (match := pattern.fullmatch(rest)) is None:
                continue
            if request.method not in handlers:
                return _refusal(405, "UNSUPPORTED", f"{request.method} is not supported here")
            permission, handler = handlers[request.method]
            fields = match.groupdict()
            try:
                image = ImageName.parse(fields["name"])
                self._access.check(_token(request), permission, image)
                return await handler(request, image, fields)
            except RegistryError as refused:
                return _refusal(refused.http_code, refused.code, refused.message)
            except GoogleError as refused:
                return _refusal(refused.http_code, _CODES.get(refused.http_code, "UNSUPPORTED"), refused.message)
            except UploadBusyError:
                return _refusal(409, "BLOB_UPLOAD_INVALID", "another request is writing to this upload")
        return _refusal(404, "UNSUPPORTED", f"/v2/{rest} is not a path of the registry API")

    async def _begin(self, request: Request, image: ImageName, _fields: dict[str, str]) -> Response:
        mount, source = request.query_params.get("mount"), request.query_params.get("from")
        if mount is not None and is_digest(mount) and source is not None and self._may_mount(request, source, mount):
            self._catalog.link_blob(image, mount)
            return _created(image, "blobs", mount)
        digest = request.query_params.get("digest")
        if digest is None:
            return _accepted(image, self._catalog.begin_upload(image), 0)
        _check_digest(digest)
        upload = self._catalog.begin_upload(image)
        with self._catalog.blobs.claimed(upload):
            try:
                await self._catalog.blobs.append(upload, request.stream())
            except BaseException:
                self._catalog.end_upload(upload)  # the client was never told its name, and cannot go on with it
                raise
            return await self._commit(image, upload, digest)

    def _may_mount(self, request: Request, source: str, digest: str) -> bool:
        """A caller who may pull the blob elsewhere need not send it again; a no here only means: send it."""
        try:
            origin = ImageName.parse(source)
            self._access.check(_token(request), _PULL, origin)
        except (RegistryError, GoogleError):
            return False
        return self._catalog.has_blob(origin, digest)

    async def _status(self, _request: Request, image: ImageName, fields: dict[str, str]) -> Response:
        response = _accepted(image, fields["upload"], self._catalog.received(image, fields["upload"]))
        response.status_code = 204
        return response

    async def _append(self, request: Request, image: ImageName, fields: dict[str, str]) -> Response:
        upload = fields["upload"]
        with self._catalog.blobs.claimed(upload):
            received = self._catalog.received(image, upload)
            if not _continues(request, received):
                response = _accepted(image, upload, received)
                response.status_code = 416
                return response
            return _accepted(image, upload, await self._catalog.blobs.append(upload, request.stream()))

    async def _finish(self, request: Request, image: ImageName, fields: dict[str, str]) -> Response:
        upload = fields["upload"]
        with self._catalog.blobs.claimed(upload):
            received = self._catalog.received(image, upload)
            if not _continues(request, received):
                return _refusal(416, "BLOB_UPLOAD_INVALID", f"{received} bytes have arrived; go on from there")
            await self._catalog.blobs.append(upload, request.stream())
            return await self._commit(image, upload, request.query_params.get("digest", ""))

    async def _commit(self, image: ImageName, upload: str, digest: str) -> Response:
        try:
            _check_digest(digest)
            await self._catalog.blobs.finish(upload, digest)
        except DigestMismatchError:
            message = f"what arrived does not have the digest {digest}"
            raise RegistryError(400, "DIGEST_INVALID", message) from None
        finally:
            self._catalog.end_upload(upload)
        self._catalog.link_blob(image, digest)
        return _created(image, "blobs", digest)

    async def _cancel(self, _request: Request, image: ImageName, fields: dict[str, str]) -> Response:
        with self._catalog.blobs.claimed(fields["upload"]):
            self._catalog.received(image, fields["upload"])
            self._catalog.end_upload(fields["upload"])
        return Response(status_code=204)

    async def _blob(self, request: Request, image: ImageName, fields: dict[str, str]) -> Response:
        digest = fields["digest"]
        if not is_digest(digest) or not self._catalog.has_blob(image, digest):
            raise RegistryError(404, "BLOB_UNKNOWN", f"{image} has no blob {digest}")
        _drop_bad_range(request)
        headers = {"Docker-Content-Digest": digest}
        return FileResponse(self._catalog.blobs.path(digest), media_type="application/octet-stream", headers=headers)

    async def _unlink(self, _request: Request, image: ImageName, fields: dict[str, str]) -> Response:
        self._catalog.unlink_blob(image, fields["digest"])
        return Response(status_code=202)

    async def _manifest(self, _request: Request, image: ImageName, fields: dict[str, str]) -> Response:
        digest, record = self._catalog.manifest(image, fields["reference"])
        headers = {"Docker-Content-Digest": digest}
        return FileResponse(self._catalog.blobs.path(digest), media_type=record["mediaType"], headers=headers)

    async def _put_manifest(self, request: Request, image: ImageName, fields: dict[str, str]) -> Response:
        content = b""
        async for chunk in request.stream():
            content += chunk
            if len(content) > _MANIFEST_LIMIT:
                raise RegistryError(413, "MANIFEST_INVALID", f"a manifest has at most {_MANIFEST_LIMIT} bytes")
        media_type = request.headers.get("content-type", "").partition(";")[0].strip()
        digest = self._catalog.put_manifest(image, fields["reference"], content, media_type)
        response = _created(image, "manifests", digest)
        subject = self._catalog.manifest(image, digest)[1]["subject"]
        if subject is not None:
            response.headers["OCI-Subject"] = subject
        self._access.pushed(image)
        return response

    async def _delete_manifest(self, _request: Request, image: ImageName, fields: dict[str, str]) -> Response:
        self._catalog.delete_manifest(image, fields["reference"])
        return Response(status_code=202)

    async def _tags(self, request: Request, image: ImageName, _fields: dict[str, str]) -> Response:
        if not self._catalog.knows(image):
            raise RegistryError(404, "NAME_UNKNOWN", f"nothing was ever pushed to {image}")
        last, limit = request.query_params.get("last"), parse_number(request.query_params.get("n", ""))
        tags = [tag for tag in self._catalog.tags(image) if last is None or tag > last]
        headers: dict[str, str] = {}
        if limit is not None and limit < len(tags):
            tags = tags[:limit]
            if tags:
                headers["Link"] = f'</v2/{image}/tags/list?n={limit}&last={tags[-1]}>; rel="next"'
        return JSONResponse({"name": str(image), "tags": tags}, headers=headers)

    async def _referrers(self, request: Request, image: ImageName, fields: dict[str, str]) -> Response:
        wanted = request.query_params.get("artifactType")
        manifests = [
            {
                "mediaType": record["mediaType"],
                "digest": digest,
                "size": record["size"],
                "artifactType": record["artifactType"],
                **({"annotations": record["annotations"]} if record["annotations"] else {}),
            }
            for digest, record in self._catalog.referrers(image, fields["digest"])
            if wanted is None or record["artifactType"] == wanted
        ]
        kind = "application/vnd.oci.image.index.v1+json"
        headers = {"OCI-Filters-Applied": "artifactType"} if wanted is not None else {}
        body = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": manifests})
        return Response(body, media_type=kind, headers=headers)


def _token(request: Request) -> str | None:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return password if user == "oauth2accesstoken" else None


def _check_digest(digest: str) -> None:
    if not is_digest(digest):
        raise RegistryError(400, "DIGEST_INVALID", f'"{digest}" is not a sha256 digest')


def _continues(request: Request, received: int) -> bool:
    """Whether a chunk begins where the last one ended; no Content-Range means that it does."""
    start = request.headers.get("content-range", str(received)).removeprefix("bytes ").partition("-")[0]
    return parse_number(start) == received


def _drop_bad_range(request: Request) -> None:
    """Have a `Range` that makes no sense ignored, as RFC 9110 (14.2) wants; Starlette would answer 400."""
    asked = _RANGE.fullmatch(request.headers.get("range", "bytes=0-"))
    if asked is None or (asked[2] is not None and int(asked[2]) < int(asked[1])):
        request.scope["headers"] = [(name, value) for name, value in request.scope["headers"] if name != b"range"]


def _accepted(image: ImageName, upload: str, received: int) -> Response:
    headers = {
        "Location": f"/v2/{image}/blobs/uploads/{upload}",
        "Docker-Upload-UUID": upload,
        "Range": f"0-{max(received - 1, 0)}",
    }
    return Response(status_code=202, headers=headers)


def _created(image: ImageName, kind: str, digest: str) -> Response:
    headers = {"Location": f"/v2/{image}/{kind}/{digest}", "Docker-Content-Digest": digest}
    return Response(status_code=201, headers=headers)


def _refusal(http_code: int, code: str, message: str) -> Response:
    headers = {"Docker-Distribution-Api-Version": "registry/2.0"}
    if http_code == 401:
        headers["WWW-Authenticate"] = 'Basic realm="Artifact Registry"'
    return JSONResponse({"errors": [{"code": code, "message": message}]}, status_code=http_code, headers=headers)
