"""Cloud Storage's JSON API at `/storage/v1/`; uploads at `/upload/` and downloads at `/download/` of the root.

That is where Google's clients send them, whatever endpoint they were given (docs/google-apis.md 0).
"""

from collections.abc import Mapping
from typing import Final, Literal

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.identity.policy import Policies, policy_from
from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import GoogleError, invalid
from mcpfleet_local_cloud.rest.message_parser import read_body
from mcpfleet_local_cloud.services.auth import ApiAuthorizer
from mcpfleet_local_cloud.services.handlers import Handlers
from mcpfleet_local_cloud.services.storage.model import Storage, shown
from mcpfleet_local_cloud.services.storage.objects import not_there
from mcpfleet_local_cloud.services.storage.uploads import Uploads, about
from mcpfleet_local_cloud.state.store import Document

API: Final = "storage.googleapis.com"
_BUCKETS: Final = "/storage/v1/b"
_BUCKET: Final = _BUCKETS + "/{bucket}"
_OBJECT: Final = _BUCKET + "/o/{object:path}"
_PAGE: Final = 1000


def routes(model: Storage, policies: Policies, gate: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    api = _Api(model, policies, gate)
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
    def __init__(self, model: Storage, policies: Policies, gate: ApiAuthorizer) -> None:
        super().__init__(gate, API)
        self._model = model
        self._policies = policies
        self._uploads = Uploads(model.objects)

    async def create(self, request: Request) -> Response:
        project = self._of_query(request)
        self.allow(request, "storage.buckets.create", f"projects/{project['projectId']}")
        body = await read_body(request)
        return json_api.reply(request, self._model.create(project, body))

    async def list(self, request: Request) -> Response:
        project = self._of_query(request)
        self.allow(request, "storage.buckets.list", f"projects/{project['projectId']}")
        prefix = request.query_params.get("prefix", "")
        found = [one for one in self._model.buckets(project["projectId"]) if one["name"].startswith(prefix)]
        page = json_api.list_page(request, "items", found, default=_PAGE, maximum=_PAGE)
        return json_api.reply(request, {"kind": "storage#buckets", **page})

    async def get(self, request: Request) -> Response:
        found = self._model.get(self._bucket(request, "buckets.get"))
        return Response(status_code=304) if _is_unchanged(request, found) else json_api.reply(request, found)

    async def update(self, request: Request) -> Response:
        name = self._bucket(request, "buckets.update")
        _check_conditions(request.query_params, self._model.get(name))
        body = await read_body(request)
        return json_api.reply(request, self._model.update(name, body))

    async def delete(self, request: Request) -> Response:
        name = self._bucket(request, "buckets.delete")
        _check_conditions(request.query_params, self._model.get(name))
        resource = self._model.resource(name)
        self._model.delete(name)
        self._policies.delete(resource)
        return Response(status_code=204)

    async def get_policy(self, request: Request) -> Response:
        name = self._bucket(request, "buckets.getIamPolicy")
        return json_api.reply(request, _policy(name, self._policies.get(self._model.resource(name))))

    async def set_policy(self, request: Request) -> Response:
        name = self._bucket(request, "buckets.setIamPolicy")
        body = await read_body(request)
        kept = self._policies.set(self._model.resource(name), policy_from({"policy": body}))
        return json_api.reply(request, _policy(name, kept))

    async def test_permissions(self, request: Request) -> Response:
        caller = self.caller(request)
        resource = self._model.resource(request.path_params["bucket"])
        asked = request.query_params.getlist("permissions")
        held = self._policies.held(caller.email, asked, resource)
        return json_api.reply(request, {"kind": "storage#testIamPermissionsResponse", "permissions": held})

    async def objects(self, request: Request) -> Response:
        name = self._bucket(request, "objects.list")
        query = request.query_params
        self._model.expire(name)
        found: dict[str, Document] = {}
        prefix, sign = query.get("prefix", ""), query.get("delimiter", "")
        for path, record in self._model.objects.list(name, prefix):
            head, cut, _ = path[len(prefix) :].partition(sign) if sign else ("", "", "")
            # What has the delimiter behind the prefix counts as one, by what comes before the delimiter.
            found[prefix + head + cut if cut else path] = {} if cut else shown(name, path, record)
        entries: list[Document] = [{"name": one, "object": document} for one, document in found.items()]
        some, following = json_api.paginate(request, entries, default=_PAGE, maximum=_PAGE)
        items = [one["object"] for one in some if one["object"]]
        folders = [one["name"] for one in some if not one["object"]]
        page = {"items": items, "prefixes": folders, "nextPageToken": following}
        return json_api.reply(request, {"kind": "storage#objects", **{name: one for name, one in page.items() if one}})

    async def object(self, request: Request) -> Response:
        if request.query_params.get("alt") == "media":
            return await self.download(request)
        name = self._bucket(request, "objects.get")
        found = self._model.object(name, request.path_params["object"])[1]
        return Response(status_code=304) if _is_unchanged(request, found) else json_api.reply(request, found)

    async def download(self, request: Request) -> Response:
        name = self._bucket(request, "objects.get")
        path, document = self._model.object(name, request.path_params["object"])
        if _is_unchanged(request, document):
            return Response(status_code=304)
        headers = {"x-goog-generation": document["generation"], "x-goog-hash": f"md5={document['md5Hash']}"}
        return FileResponse(path, media_type=document["contentType"], headers=headers)

    async def change_object(self, request: Request) -> Response:
        name, path = self._bucket(request, "objects.update"), request.path_params["object"]
        found = self._model.objects.find(name, path)
        if found is None or not _is_generation(request, found[1]):
            raise not_there(name, path)
        _check_conditions(request.query_params, found[1])
        record = {**found[1], "metageneration": str(int(found[1]["metageneration"]) + 1)}
        changes: Document = await read_body(request)
        changes.pop("name", None)
        if changes.get("metadata"):
            changes["metadata"] = _patched(found[1].get("metadata", {}), changes["metadata"])
        record = _patched(record, changes)
        self._model.objects.change(name, path, record)
        return json_api.reply(request, shown(name, path, record))

    async def delete_object(self, request: Request) -> Response:
        name, path = self._bucket(request, "objects.delete"), request.path_params["object"]
        found = self._model.objects.find(name, path)
        if found is None or not _is_generation(request, found[1]):
            raise not_there(name, path)
        _check_conditions(request.query_params, found[1])
        self._model.objects.delete(name, path)
        return Response(status_code=204)

    async def upload(self, request: Request) -> Response:
        bucket = self._bucket(request, "objects.create")
        query = request.query_params
        if upload_id := query.get("upload_id"):
            if request.method == "DELETE":
                self._uploads.cancel(bucket, upload_id)
                return Response(status_code=499)  # as Google answers (JSON API, "Cancel an upload")
            return await self._proceed(request, bucket, upload_id)
        kind, named = query.get("uploadType", ""), query.get("name", "")
        if kind == "multipart":
            facts, path = await self._uploads.multipart(request)
            try:
                name, facts = about(facts, named)
            except GoogleError:
                path.unlink(missing_ok=True)
                raise
        elif kind == "media":
            name, facts = about({"contentType": request.headers.get("content-type", "")}, named)
            path = await self._uploads.media(request)
        elif kind == "resumable":
            name, facts = about(await read_body(request), named)
            self._check_generation(query, bucket, name)
            if content_type := request.headers.get("x-upload-content-type"):
                facts.setdefault("contentType", content_type)
            where = request.url.include_query_params(upload_id=self._uploads.begin(bucket, name, facts, query))
            return Response(headers={"location": str(where)})
        else:
            raise invalid(f"uploadType must be media, multipart or resumable, not {kind!r}.")
        try:
            self._check_generation(query, bucket, name)
            return JSONResponse(shown(bucket, name, self._model.objects.put(bucket, name, path, facts)))
        finally:
            path.unlink(missing_ok=True)  # where it was refused

    async def _proceed(self, request: Request, bucket: str, upload_id: str) -> Response:
        pending, done = await self._uploads.proceed(request, bucket, upload_id)
        if not done:
            headers = {"range": f"bytes=0-{pending.size - 1}"} if pending.size else {}
            return Response(status_code=308, headers=headers)
        try:
            # Somebody else may have written the object since the upload began.
            self._check_generation(pending.conditions, bucket, pending.name)
            record = self._model.objects.put(bucket, pending.name, pending.path, pending.about)
            return JSONResponse(shown(bucket, pending.name, record))
        finally:
            pending.path.unlink(missing_ok=True)  # where it was refused

    def _check_generation(self, query: Mapping[str, str], bucket: str, name: str) -> None:
        found = self._model.objects.find(bucket, name)
        _check_conditions(query, found[1] if found else {})

    def _of_query(self, request: Request) -> Document:
        self.caller(request)
        project = self._gate.project(request.query_params.get("project", ""))
        self._gate.require_api(project["projectId"], API)
        return project

    def _bucket(self, request: Request, verb: str) -> str:
        """The bucket in the path, with which (or with whose objects) the caller may do *verb*."""
        self.caller(request)
        name: str = request.path_params["bucket"]
        resource = self._model.resource(name)
        self._gate.require_api(resource.split("/")[1], API)
        self.allow(request, f"storage.{verb}", resource)
        return name


def _patched(found: Document, changes: Document) -> Document:
    return {field: value for field, value in {**found, **changes}.items() if value is not None}


def _is_generation(request: Request, found: Document) -> bool:
    return request.query_params.get("generation") in (None, "", found.get("generation"))


def _is_unchanged(request: Request, found: Document) -> bool:
    """Whether the caller of a read has what it would get (304).

    Raises:
        GoogleError: NOT_FOUND: another generation is asked for; CONDITION_NOT_MET.
    """
    if not _is_generation(request, found):
        raise not_there(found.get("bucket", ""), found["name"])
    if _unmet(request.query_params, found, "Match"):
        raise _not_met()
    return _unmet(request.query_params, found, "NotMatch")


def _check_conditions(query: Mapping[str, str], found: Document) -> None:
    """Refuse a change whose conditions *found* (empty: there is none) does not meet.

    Raises:
        GoogleError: CONDITION_NOT_MET.
    """
    if _unmet(query, found, "Match") or _unmet(query, found, "NotMatch"):
        raise _not_met()


def _unmet(query: Mapping[str, str], found: Document, kind: Literal["Match", "NotMatch"]) -> bool:
    for field in ("generation", "metageneration"):
        wanted = query.get(f"if{field.capitalize()}{kind}")
        if wanted and (int(wanted) == int(found.get(field, 0))) != (kind == "Match"):
            return True
    return False


def _not_met() -> GoogleError:
    return GoogleError("CONDITION_NOT_MET", "At least one of the pre-conditions you specified did not hold.")


def _policy(bucket: str, policy: Document) -> Document:
    return {"kind": "storage#policy", "resourceId": f"projects/_/buckets/{bucket}", **policy}
