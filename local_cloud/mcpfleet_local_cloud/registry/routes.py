"""The routes of the OCI Distribution API at `/v2/`, over the catalog.

Artifact Registry decides which callers may push and pull, and words the errors. A caller sends an OAuth access token
as the password of `oauth2accesstoken` (cloud.google.com/artifact-registry/docs/docker/authentication) or as a bearer
token.

The Python packages for this API are clients only; none is a server.
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


class RegistryAuthorizer(Protocol):
    """Authorizes requests to the registry; Artifact Registry implements it."""

    def check(self, token: str | None, permission: str, image: ImageName) -> None:
        """Check that the caller has *permission* for *image*; *token* is the caller's OAuth access token, or None.

        Raises:
            GoogleError: UNAUTHENTICATED, PERMISSION_DENIED, NOT_FOUND (no such repository).
        """
        ...

    def authenticate(self, token: str) -> None:
        """Check that *token* is valid, for `docker login`.

        Raises:
            GoogleError: UNAUTHENTICATED, PERMISSION_DENIED.
        """
        ...

    def pushed(self, image: ImageName) -> None:
        """Apply cleanup policies after a manifest was pushed to the image."""
        ...


def routes(catalog: Catalog, access: RegistryAuthorizer) -> list[BaseRoute]:
    """The registry's routes."""
    registry = _Registry(catalog, access)
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    return [Route("/v2/", registry.root), Route("/v2/{rest:path}", registry.dispatch, methods=methods)]


class _Registry:
    def __init__(self, catalog: Catalog, access: RegistryAuthorizer) -> None:
        self._catalog = catalog
        self._access = access
        # The first match counts: the URL of an upload matches the pattern for blobs too.
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
        """`GET /v2/`, by which a client finds out how to authenticate."""
        token = _token(request)
        if token is None:
            return _error_response(401, "UNAUTHORIZED", "authentication required")
        try:
            self._access.authenticate(token)
        except GoogleError as error:
            return _error_response(error.http_code, _CODES.get(error.http_code, "UNSUPPORTED"), error.message)
        return JSONResponse({})

    async def dispatch(self, request: Request) -> Response:
        """Find the handler, authorize the request, and return the response."""
        rest = request.path_params["rest"]
        for pattern, handlers in self._table:
            if (match := pattern.fullmatch(rest)) is None:
                continue
            if request.method not in handlers:
                return _error_response(405, "UNSUPPORTED", f"{request.method} is not supported here")
            permission, handler = handlers[request.method]
            fields = match.groupdict()
            try:
                image = ImageName.parse(fields["name"])
                self._access.check(_token(request), permission, image)
                return await handler(request, image, fields)
            except RegistryError as error:
                return _error_response(error.http_code, error.code, error.message)
            except GoogleError as error:
                return _error_response(error.http_code, _CODES.get(error.http_code, "UNSUPPORTED"), error.message)
            except UploadBusyError:
                return _error_response(409, "BLOB_UPLOAD_INVALID", "another request is writing to this upload")
        return _error_response(404, "UNSUPPORTED", f"/v2/{rest} is not a path of the registry API")

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
        with self._catalog.blobs.lock_upload(upload):
            try:
                await self._catalog.blobs.append(upload, request.stream())
            except BaseException:
                self._catalog.end_upload(upload)  # the client doesn't know its id, and can't continue it
                raise
            return await self._commit(image, upload, digest)

    def _may_mount(self, request: Request, source: str, digest: str) -> bool:
        """Whether the caller may pull the blob from the image *source*; if not, the client uploads the blob."""
        try:
            origin = ImageName.parse(source)
            self._access.check(_token(request), _PULL, origin)
        except (RegistryError, GoogleError):
            return False
        return self._catalog.has_blob(origin, digest)

    async def _status(self, _request: Request, image: ImageName, fields: dict[str, str]) -> Response:
        response = _accepted(image, fields["upload"], self._catalog.received_bytes(image, fields["upload"]))
        response.status_code = 204
        return response

    async def _append(self, request: Request, image: ImageName, fields: dict[str, str]) -> Response:
        upload = fields["upload"]
        with self._catalog.blobs.lock_upload(upload):
            received = self._catalog.received_bytes(image, upload)
            if not _is_next_chunk(request, received):
                response = _accepted(image, upload, received)
                response.status_code = 416
                return response
            return _accepted(image, upload, await self._catalog.blobs.append(upload, request.stream()))

    async def _finish(self, request: Request, image: ImageName, fields: dict[str, str]) -> Response:
        upload = fields["upload"]
        with self._catalog.blobs.lock_upload(upload):
            received = self._catalog.received_bytes(image, upload)
            if not _is_next_chunk(request, received):
                return _error_response(
                    416, "BLOB_UPLOAD_INVALID", f"the upload has {received} bytes; continue from there"
                )
            await self._catalog.blobs.append(upload, request.stream())
            return await self._commit(image, upload, request.query_params.get("digest", ""))

    async def _commit(self, image: ImageName, upload: str, digest: str) -> Response:
        try:
            _check_digest(digest)
            await self._catalog.blobs.finish(upload, digest)
        except DigestMismatchError:
            message = f"the uploaded content does not have the digest {digest}"
            raise RegistryError(400, "DIGEST_INVALID", message) from None
        finally:
            self._catalog.end_upload(upload)
        self._catalog.link_blob(image, digest)
        return _created(image, "blobs", digest)

    async def _cancel(self, _request: Request, image: ImageName, fields: dict[str, str]) -> Response:
        with self._catalog.blobs.lock_upload(fields["upload"]):
            self._catalog.received_bytes(image, fields["upload"])
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
        digest, record = self._catalog.find_manifest(image, fields["reference"])
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
        subject = self._catalog.find_manifest(image, digest)[1]["subject"]
        if subject is not None:
            response.headers["OCI-Subject"] = subject
        self._access.pushed(image)
        return response

    async def _delete_manifest(self, _request: Request, image: ImageName, fields: dict[str, str]) -> Response:
        self._catalog.delete_manifest(image, fields["reference"])
        return Response(status_code=202)

    async def _tags(self, request: Request, image: ImageName, _fields: dict[str, str]) -> Response:
        if not self._catalog.has_image(image):
            raise RegistryError(404, "NAME_UNKNOWN", f"nothing was ever pushed to {image}")
        last, limit = request.query_params.get("last"), parse_number(request.query_params.get("n", ""))
        tags = [tag for tag in self._catalog.list_tags(image) if last is None or tag > last]
        headers: dict[str, str] = {}
        if limit is not None and limit < len(tags):
            tags = tags[:limit]
            if tags:
                headers["Link"] = f'</v2/{image}/tags/list?n={limit}&last={tags[-1]}>; rel="next"'
        return JSONResponse({"name": str(image), "tags": tags}, headers=headers)

    async def _referrers(self, request: Request, image: ImageName, fields: dict[str, str]) -> Response:
        artifact_type = request.query_params.get("artifactType")
        manifests = [
            {
                "mediaType": record["mediaType"],
                "digest": digest,
                "size": record["size"],
                "artifactType": record["artifactType"],
                **({"annotations": record["annotations"]} if record["annotations"] else {}),
            }
            for digest, record in self._catalog.list_referrers(image, fields["digest"])
            if artifact_type is None or record["artifactType"] == artifact_type
        ]
        media_type = "application/vnd.oci.image.index.v1+json"
        headers = {"OCI-Filters-Applied": "artifactType"} if artifact_type is not None else {}
        body = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests})
        return Response(body, media_type=media_type, headers=headers)


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


def _is_next_chunk(request: Request, received: int) -> bool:
    """Whether a chunk starts at the end of the previous one, which a missing Content-Range means too."""
    start = request.headers.get("content-range", str(received)).removeprefix("bytes ").partition("-")[0]
    return parse_number(start) == received


def _drop_bad_range(request: Request) -> None:
    """Remove an invalid `Range` header, as RFC 9110 (14.2) requires; Starlette would respond with 400."""
    match = _RANGE.fullmatch(request.headers.get("range", "bytes=0-"))
    if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
        request.scope["headers"] = [(name, value) for name, value in request.scope["headers"] if name != b"range"]


def _accepted(image: ImageName, upload: str, received: int) -> Response:
    headers = {
        "Location": f"/v2/{image}/blobs/uploads/{upload}",
        "Docker-Upload-UUID": upload,
        "Range": f"0-{max(received - 1, 0)}",
    }
    return Response(status_code=202, headers=headers)


def _created(image: ImageName, collection: str, digest: str) -> Response:
    headers = {"Location": f"/v2/{image}/{collection}/{digest}", "Docker-Content-Digest": digest}
    return Response(status_code=201, headers=headers)


def _error_response(http_code: int, code: str, message: str) -> Response:
    headers = {"Docker-Distribution-Api-Version": "registry/2.0"}
    if http_code == 401:
        headers["WWW-Authenticate"] = 'Basic realm="Artifact Registry"'
    return JSONResponse({"errors": [{"code": code, "message": message}]}, status_code=http_code, headers=headers)
