"""Cloud Storage's JSON API at `/storage/v1/`, with uploads at `/upload/` and downloads at `/download/`.

Google's clients use the latter two paths whatever endpoint is configured (docs/google-apis.md 0).
"""

from collections.abc import Mapping
from typing import Final, Literal

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.identity.policy import Policies, read_policy_body
from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import GoogleError, invalid
from mcpfleet_local_cloud.rest.message_parser import read_body
from mcpfleet_local_cloud.services.auth import ApiAuthorizer
from mcpfleet_local_cloud.services.handlers import Handlers
from mcpfleet_local_cloud.services.storage.model import Storage, render_object
from mcpfleet_local_cloud.services.storage.objects import object_not_found
from mcpfleet_local_cloud.services.storage.uploads import Uploads, parse_metadata
from mcpfleet_local_cloud.state.store import Document

API: Final = "storage.googleapis.com"
_BUCKETS: Final = "/storage/v1/b"
_BUCKET: Final = _BUCKETS + "/{bucket}"
_OBJECT: Final = _BUCKET + "/o/{object:path}"
_PAGE_SIZE: Final = 1000


def routes(model: Storage, policies: Policies, authorizer: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    api = _Api(model, policies, authorizer)
    return [
        Route(_BUCKETS, api.create, methods=["POST"]),
        Route(_BUCKETS, api.list, methods=["GET"]),
        Route(_BUCKET + "/iam", api.get_policy, methods=["GET"]),
        Route(_BUCKET + "/iam", api.set_policy, methods=["PUT"]),
        Route(_BUCKET + "/iam/testPermissions", api.test_permissions, methods=["GET"]),
        Route(_BUCKET + "/o", api.objects, methods=["GET"]),
        Route(_OBJECT, api.object, methods=["GET"]),
        Route(_OBJECT, api.change_object, methods=["PATCH"]),
        Route(_OBJECT, api.delete_object, methods=["DELETE"]),
        Route(_BUCKET, api.get, methods=["GET"]),
        Route(_BUCKET, api.update, methods=["PATCH"]),
        Route(_BUCKET, api.delete, methods=["DELETE"]),
        Route("/upload" + _BUCKET + "/o", api.upload, methods=["POST", "PUT", "DELETE"]),
        Route("/download" + _OBJECT, api.download, methods=["GET"]),
    ]


class _Api(Handlers):
    def __init__(self, model: Storage, policies: Policies, authorizer: ApiAuthorizer) -> None:
        super().__init__(authorizer, API)
        self._model = model
        self._policies = policies
        self._uploads = Uploads(model.objects)

    async def create(self, request: Request) -> Response:
        project = self._find_query_project(request)
        self.require_permission(request, "storage.buckets.create", f"projects/{project['projectId']}")
        body = await read_body(request)
        return json_api.reply(request, self._model.create(project, body))

    async def list(self, request: Request) -> Response:
        project = self._find_query_project(request)
        self.require_permission(request, "storage.buckets.list", f"projects/{project['projectId']}")
        prefix = request.query_params.get("prefix", "")
        buckets = [bucket for bucket in self._model.buckets(project["projectId"]) if bucket["name"].startswith(prefix)]
        page = json_api.list_page(request, "items", buckets, default=_PAGE_SIZE, maximum=_PAGE_SIZE)
        return json_api.reply(request, {"kind": "storage#buckets", **page})

    async def get(self, request: Request) -> Response:
        bucket = self._model.get(self._authorize_bucket(request, "buckets.get"))
        return Response(status_code=304) if _is_unchanged(request, bucket) else json_api.reply(request, bucket)

    async def update(self, request: Request) -> Response:
        name = self._authorize_bucket(request, "buckets.update")
        _check_conditions(request.query_params, self._model.get(name))
        body = await read_body(request)
        return json_api.reply(request, self._model.update(name, body))

    async def delete(self, request: Request) -> Response:
        name = self._authorize_bucket(request, "buckets.delete")
        _check_conditions(request.query_params, self._model.get(name))
        resource = self._model.resource(name)
        self._model.delete(name)
        self._policies.delete(resource)
        return Response(status_code=204)

    async def get_policy(self, request: Request) -> Response:
        name = self._authorize_bucket(request, "buckets.getIamPolicy")
        return json_api.reply(request, _render_policy(name, self._policies.get(self._model.resource(name))))

    async def set_policy(self, request: Request) -> Response:
        name = self._authorize_bucket(request, "buckets.setIamPolicy")
        body = await read_body(request)
        policy = self._policies.set(self._model.resource(name), read_policy_body({"policy": body}))
        return json_api.reply(request, _render_policy(name, policy))

    async def test_permissions(self, request: Request) -> Response:
        caller = self.authenticate(request)
        resource = self._model.resource(request.path_params["bucket"])
        permissions = request.query_params.getlist("permissions")
        granted = self._policies.filter_permissions(caller.email, permissions, resource)
        return json_api.reply(request, {"kind": "storage#testIamPermissionsResponse", "permissions": granted})

    async def objects(self, request: Request) -> Response:
        name = self._authorize_bucket(request, "objects.list")
        query = request.query_params
        self._model.expire(name)
        documents: dict[str, Document] = {}
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        for path, record in self._model.objects.list(name, prefix):
            folder, separator, _ = path[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            # Names with the delimiter after the prefix are grouped by the part up to the delimiter.
            documents[prefix + folder + separator if separator else path] = (
                {} if separator else render_object(name, path, record)
            )
        entries: list[Document] = [{"name": item, "object": document} for item, document in documents.items()]
        page_entries, next_token = json_api.paginate(request, entries, default=_PAGE_SIZE, maximum=_PAGE_SIZE)
        items = [item["object"] for item in page_entries if item["object"]]
        folders = [item["name"] for item in page_entries if not item["object"]]
        page = {"items": items, "prefixes": folders, "nextPageToken": next_token}
        return json_api.reply(
            request, {"kind": "storage#objects", **{name: item for name, item in page.items() if item}}
        )

    async def object(self, request: Request) -> Response:
        if request.query_params.get("alt") == "media":
            return await self.download(request)
        name = self._authorize_bucket(request, "objects.get")
        document = self._model.object(name, request.path_params["object"])[1]
        return Response(status_code=304) if _is_unchanged(request, document) else json_api.reply(request, document)

    async def download(self, request: Request) -> Response:
        name = self._authorize_bucket(request, "objects.get")
        path, document = self._model.object(name, request.path_params["object"])
        if _is_unchanged(request, document):
            return Response(status_code=304)
        headers = {"x-goog-generation": document["generation"], "x-goog-hash": f"md5={document['md5Hash']}"}
        return FileResponse(path, media_type=document["contentType"], headers=headers)

    async def change_object(self, request: Request) -> Response:
        name, path = self._authorize_bucket(request, "objects.update"), request.path_params["object"]
        entry = self._model.objects.find(name, path)
        if entry is None or not _is_generation(request, entry[1]):
            raise object_not_found(name, path)
        _check_conditions(request.query_params, entry[1])
        record = {**entry[1], "metageneration": str(int(entry[1]["metageneration"]) + 1)}
        changes: Document = await read_body(request)
        changes.pop("name", None)
        if changes.get("metadata"):
            changes["metadata"] = _apply_patch(entry[1].get("metadata", {}), changes["metadata"])
        record = _apply_patch(record, changes)
        self._model.objects.update(name, path, record)
        return json_api.reply(request, render_object(name, path, record))

    async def delete_object(self, request: Request) -> Response:
        name, path = self._authorize_bucket(request, "objects.delete"), request.path_params["object"]
        entry = self._model.objects.find(name, path)
        if entry is None or not _is_generation(request, entry[1]):
            raise object_not_found(name, path)
        _check_conditions(request.query_params, entry[1])
        self._model.objects.delete(name, path)
        return Response(status_code=204)

    async def upload(self, request: Request) -> Response:
        bucket = self._authorize_bucket(request, "objects.create")
        query = request.query_params
        if upload_id := query.get("upload_id"):
            if request.method == "DELETE":
                self._uploads.cancel(bucket, upload_id)
                return Response(status_code=499)  # as on Google (JSON API, "Cancel an upload")
            return await self._receive_piece(request, bucket, upload_id)
        upload_type, requested_name = query.get("uploadType", ""), query.get("name", "")
        if upload_type == "multipart":
            metadata, path = await self._uploads.receive_multipart(request)
            try:
                name, metadata = parse_metadata(metadata, requested_name)
            except GoogleError:
                path.unlink(missing_ok=True)
                raise
        elif upload_type == "media":
            name, metadata = parse_metadata({"contentType": request.headers.get("content-type", "")}, requested_name)
            path = await self._uploads.receive_media(request)
        elif upload_type == "resumable":
            name, metadata = parse_metadata(await read_body(request), requested_name)
            self._check_generation(query, bucket, name)
            if content_type := request.headers.get("x-upload-content-type"):
                metadata.setdefault("contentType", content_type)
            session_url = request.url.include_query_params(upload_id=self._uploads.start(bucket, name, metadata, query))
            return Response(headers={"location": str(session_url)})
        else:
            raise invalid(f"uploadType must be media, multipart or resumable, not {upload_type!r}.")
        try:
            self._check_generation(query, bucket, name)
            return JSONResponse(render_object(bucket, name, self._model.objects.put(bucket, name, path, metadata)))
        finally:
            path.unlink(missing_ok=True)  # it still exists if the upload was refused

    async def _receive_piece(self, request: Request, bucket: str, upload_id: str) -> Response:
        pending, is_complete = await self._uploads.receive_piece(request, bucket, upload_id)
        if not is_complete:
            headers = {"range": f"bytes=0-{pending.size - 1}"} if pending.size else {}
            return Response(status_code=308, headers=headers)
        try:
            # Another caller may have written the object since the upload began.
            self._check_generation(pending.conditions, bucket, pending.name)
            record = self._model.objects.put(bucket, pending.name, pending.path, pending.metadata)
            return JSONResponse(render_object(bucket, pending.name, record))
        finally:
            pending.path.unlink(missing_ok=True)  # it still exists if the upload was refused

    def _check_generation(self, query: Mapping[str, str], bucket: str, name: str) -> None:
        entry = self._model.objects.find(bucket, name)
        _check_conditions(query, entry[1] if entry else {})

    def _find_query_project(self, request: Request) -> Document:
        self.authenticate(request)
        project = self._authorizer.find_project(request.query_params.get("project", ""))
        self._authorizer.require_api(project["projectId"], API)
        return project

    def _authorize_bucket(self, request: Request, verb: str) -> str:
        """Return the bucket in the path; the caller needs the permission for *verb*."""
        self.authenticate(request)
        name: str = request.path_params["bucket"]
        resource = self._model.resource(name)
        self._authorizer.require_api(resource.split("/")[1], API)
        self.require_permission(request, f"storage.{verb}", resource)
        return name


def _apply_patch(document: Document, changes: Document) -> Document:
    return {field: value for field, value in {**document, **changes}.items() if value is not None}


def _is_generation(request: Request, document: Document) -> bool:
    return request.query_params.get("generation") in (None, "", document.get("generation"))


def _is_unchanged(request: Request, document: Document) -> bool:
    """Whether the caller of a read already has the current version (304).

    Raises:
        GoogleError: NOT_FOUND: another generation is requested; CONDITION_NOT_MET.
    """
    if not _is_generation(request, document):
        raise object_not_found(document.get("bucket", ""), document["name"])
    if _is_condition_unmet(request.query_params, document, "Match"):
        raise _condition_not_met_error()
    return _is_condition_unmet(request.query_params, document, "NotMatch")


def _check_conditions(query: Mapping[str, str], document: Document) -> None:
    """Check the preconditions of a change against the current *document*, which is empty if there is none.

    Raises:
        GoogleError: CONDITION_NOT_MET.
    """
    if _is_condition_unmet(query, document, "Match") or _is_condition_unmet(query, document, "NotMatch"):
        raise _condition_not_met_error()


def _is_condition_unmet(query: Mapping[str, str], document: Document, kind: Literal["Match", "NotMatch"]) -> bool:
    for field in ("generation", "metageneration"):
        expected = query.get(f"if{field.capitalize()}{kind}")
        if expected and (int(expected) == int(document.get(field, 0))) != (kind == "Match"):
            return True
    return False


def _condition_not_met_error() -> GoogleError:
    return GoogleError("CONDITION_NOT_MET", "At least one of the pre-conditions you specified did not hold.")


def _render_policy(bucket: str, policy: Document) -> Document:
    return {"kind": "storage#policy", "resourceId": f"projects/_/buckets/{bucket}", **policy}
