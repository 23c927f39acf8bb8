"""Cloud Storage's three upload types: media only, metadata and media in one body (multipart), and resumable."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from secrets import token_urlsafe
from typing import Final

from starlette.requests import Request

from mcpfleet_local_cloud.rest.errors import GoogleError, invalid
from mcpfleet_local_cloud.rest.message_parser import parse_body
from mcpfleet_local_cloud.rest.schemas import load_api
from mcpfleet_local_cloud.services.storage.objects import Objects
from mcpfleet_local_cloud.state.store import Document

MULTIPART_LIMIT: Final = 256 * 1024 * 1024
"""The largest multipart body in bytes; larger objects need a resumable upload."""
_UPLOAD_SECONDS: Final = 7 * 24 * 3600
"""The lifetime of a resumable upload in seconds (cloud.google.com/storage/docs/resumable-uploads)."""
_RANGE: Final = re.compile(r"bytes (?:(\d{1,15})-(\d{1,15})|\*)/(\d{1,15}|\*)")
_INSERT_METHOD: Final = "POST /upload/storage/v1/b/{bucket}/o"


@dataclass
class PendingUpload:
    """A resumable upload that is not complete."""

    bucket: str
    name: str
    metadata: Document
    conditions: Mapping[str, str]
    path: Path
    started_at: float
    size: int = 0


class Uploads:
    """The uploads in progress. A restart of the cloud ends them, and clients start again."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._pending: dict[str, PendingUpload] = {}

    async def receive_media(self, request: Request) -> Path:
        """Write the request's body to a file; return its path."""
        handle, path = self._objects.create_temporary_file()
        try:
            with os.fdopen(handle, "wb") as file:
                async for chunk in request.stream():
                    file.write(chunk)
        except BaseException:  # the client disconnected, or the disk is full
            path.unlink(missing_ok=True)
            raise
        return path

    async def receive_multipart(self, request: Request) -> tuple[Document, Path]:
        """Read a `multipart/related` body (RFC 2387); return the metadata and the path of the content.

        Raises:
            GoogleError: INVALID_ARGUMENT.
        """
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MULTIPART_LIMIT:
                raise invalid(f"Request payload size exceeds the limit: {MULTIPART_LIMIT} bytes.")
        metadata, content = split_multipart(request.headers.get("content-type", ""), bytes(body))
        handle, path = self._objects.create_temporary_file()
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return metadata, path

    def start(self, bucket: str, name: str, metadata: Document, conditions: Mapping[str, str]) -> str:
        """Start a resumable upload, whose object is written only on *conditions*; return the upload's id."""
        now = self._objects.now()
        for old in [key for key, upload in self._pending.items() if upload.started_at < now - _UPLOAD_SECONDS]:
            self._pending.pop(old).path.unlink(missing_ok=True)
        handle, path = self._objects.create_temporary_file()
        os.close(handle)
        upload_id = token_urlsafe(24)
        self._pending[upload_id] = PendingUpload(bucket, name, metadata, conditions, path, now)
        return upload_id

    def cancel(self, bucket: str, upload_id: str) -> None:
        """Cancel a resumable upload.

        Raises:
            GoogleError: NOT_FOUND.
        """
        pending = self._pending.get(upload_id)
        if pending is None or pending.bucket != bucket:
            raise GoogleError("NOT_FOUND", "The upload does not exist any more; start it again.")
        del self._pending[upload_id]
        pending.path.unlink(missing_ok=True)

    async def receive_piece(self, request: Request, bucket: str, upload_id: str) -> tuple[PendingUpload, bool]:
        """Receive one piece of an upload to *bucket*; return the upload and whether it is complete.

        Raises:
            GoogleError: NOT_FOUND; INVALID_ARGUMENT if there is a gap before the piece.
        """
        pending = self._pending.get(upload_id)
        if pending is None or pending.bucket != bucket:
            raise GoogleError("NOT_FOUND", "The upload does not exist any more; start it again.")
        piece = await request.body()
        content_range = request.headers.get("content-range", f"bytes 0-{max(len(piece) - 1, 0)}/{len(piece)}")
        match = _RANGE.fullmatch(content_range)
        if match is None:
            raise invalid(f"Invalid Content-Range: {content_range}")
        first, _, total = match.groups()
        if first is not None and piece:
            if int(first) > pending.size:
                raise invalid(f"The piece begins at {first}, but {pending.size} bytes have arrived.")
            with pending.path.open("r+b") as file:
                file.seek(int(first))
                file.write(piece)
            pending.size = int(first) + len(piece)
        is_complete = total != "*" and pending.size >= int(total)
        if is_complete:
            del self._pending[upload_id]
        return pending, is_complete


def parse_metadata(document: Document, name: str) -> tuple[str, Document]:
    """Return the object's name, from the parameter *name* or the metadata, and the rest of the metadata.

    Raises:
        GoogleError: INVALID_ARGUMENT.
    """
    object_name = name or document.get("name", "")
    if not object_name:
        raise invalid("Required parameter: name")
    return object_name, {field: value for field, value in document.items() if field != "name" and value}


def split_multipart(content_type: str, body: bytes) -> tuple[Document, bytes]:
    """Split a `multipart/related` body into its JSON part and its media part.

    Raises:
        GoogleError: INVALID_ARGUMENT: the body is malformed.
    """
    match = re.search(r'boundary=(?:"([^"]{1,70})"|([^;\s]{1,70}))', content_type)
    if not content_type.startswith("multipart/related") or match is None:
        raise invalid("Invalid multipart request: the content type must be multipart/related with a boundary.")
    delimiter = b"--" + (match[1] or match[2]).encode("latin-1")
    parts = (b"\r\n" + body).split(b"\r\n" + delimiter)
    if len(parts) != 4 or not parts[3].startswith(b"--"):
        raise invalid(f"Invalid multipart request with {max(len(parts) - 2, 0)} mime parts.")
    heads: list[bytes] = []
    contents: list[bytes] = []
    for part in parts[1:3]:
        head, separator, content = part.partition(b"\r\n\r\n")
        if not separator:
            raise invalid("Invalid multipart request: a part has no blank line after its headers.")
        heads.append(head)
        contents.append(content)
    metadata = parse_body(contents[0], load_api("storage.v1").methods[_INSERT_METHOD])
    media_type = re.search(rb"(?i)content-type:\s*([^\r\n]+)", heads[1])
    if media_type and not metadata.get("contentType"):
        metadata["contentType"] = media_type[1].decode("latin-1").strip()
    return metadata, contents[1]
