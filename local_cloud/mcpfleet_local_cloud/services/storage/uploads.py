"""Cloud Storage's three ways to send an object: plain media, metadata and media in one body, and in pieces."""

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
"""Bytes of a body with metadata and media; larger ones come in pieces."""
_SESSION: Final = 7 * 24 * 3600
"""Seconds in which an upload in pieces has to be done (cloud.google.com/storage/docs/resumable-uploads)."""
_RANGE: Final = re.compile(r"bytes (?:(\d{1,15})-(\d{1,15})|\*)/(\d{1,15}|\*)")
_INSERT: Final = "POST /upload/storage/v1/b/{bucket}/o"


@dataclass
class Pending:
    """An upload in pieces."""

    bucket: str
    name: str
    about: Document
    conditions: Mapping[str, str]
    path: Path
    begun: float
    size: int = 0


class Uploads:
    """The uploads that are under way; a restart of the cloud ends them, and clients begin anew."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._pending: dict[str, Pending] = {}

    async def media(self, request: Request) -> Path:
        """The request's body as a file."""
        handle, path = self._objects.temporary()
        try:
            with os.fdopen(handle, "wb") as file:
                async for chunk in request.stream():
                    file.write(chunk)
        except BaseException:  # the client hung up, or the disk is full
            path.unlink(missing_ok=True)
            raise
        return path

    async def multipart(self, request: Request) -> tuple[Document, Path]:
        """Metadata and content of a `multipart/related` body (RFC 2387).

        Raises:
            GoogleError: INVALID_ARGUMENT.
        """
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MULTIPART_LIMIT:
                raise invalid(f"Request payload size exceeds the limit: {MULTIPART_LIMIT} bytes.")
        about, content = split(request.headers.get("content-type", ""), bytes(body))
        handle, path = self._objects.temporary()
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return about, path

    def begin(self, bucket: str, name: str, about: Document, conditions: Mapping[str, str]) -> str:
        """Begin an upload in pieces, which writes its object on *conditions*; the id by which it goes on."""
        now = self._objects.now()
        for old in [key for key, one in self._pending.items() if one.begun < now - _SESSION]:
            self._pending.pop(old).path.unlink(missing_ok=True)
        handle, path = self._objects.temporary()
        os.close(handle)
        upload_id = token_urlsafe(24)
        self._pending[upload_id] = Pending(bucket, name, about, conditions, path, now)
        return upload_id

    def cancel(self, bucket: str, upload_id: str) -> None:
        """Throw away an upload in pieces.

        Raises:
            GoogleError: NOT_FOUND.
        """
        pending = self._pending.get(upload_id)
        if pending is None or pending.bucket != bucket:
            raise GoogleError("NOT_FOUND", "The upload is not known any more; begin it anew.")
        del self._pending[upload_id]
        pending.path.unlink(missing_ok=True)

    async def proceed(self, request: Request, bucket: str, upload_id: str) -> tuple[Pending, bool]:
        """Take one piece of an upload to *bucket*; whether it was the last.

        Raises:
            GoogleError: NOT_FOUND; INVALID_ARGUMENT where it does not follow the one before.
        """
        pending = self._pending.get(upload_id)
        if pending is None or pending.bucket != bucket:
            raise GoogleError("NOT_FOUND", "The upload is not known any more; begin it anew.")
        piece = await request.body()
        said = request.headers.get("content-range", f"bytes 0-{max(len(piece) - 1, 0)}/{len(piece)}")
        found = _RANGE.fullmatch(said)
        if found is None:
            raise invalid(f"Invalid Content-Range: {said}")
        first, _, total = found.groups()
        if first is not None and piece:
            if int(first) > pending.size:
                raise invalid(f"The piece begins at {first}, but {pending.size} bytes have arrived.")
            with pending.path.open("r+b") as file:
                file.seek(int(first))
                file.write(piece)
            pending.size = int(first) + len(piece)
        done = total != "*" and pending.size >= int(total)
        if done:
            del self._pending[upload_id]
        return pending, done


def about(document: Document, name: str) -> tuple[str, Document]:
    """Name and further facts of an object, from its metadata and the request's parameter *name*.

    Raises:
        GoogleError: INVALID_ARGUMENT.
    """
    named = name or document.get("name", "")
    if not named:
        raise invalid("Required parameter: name")
    return named, {field: value for field, value in document.items() if field != "name" and value}


def split(content_type: str, body: bytes) -> tuple[Document, bytes]:
    """The JSON part and the media part of a `multipart/related` body.

    Raises:
        GoogleError: INVALID_ARGUMENT: not of that form.
    """
    found = re.search(r'boundary=(?:"([^"]{1,70})"|([^;\s]{1,70}))', content_type)
    if not content_type.startswith("multipart/related") or found is None:
        raise invalid("Invalid multipart request: the content type must be multipart/related with a boundary.")
    mark = b"--" + (found[1] or found[2]).encode("latin-1")
    parts = (b"\r\n" + body).split(b"\r\n" + mark)
    if len(parts) != 4 or not parts[3].startswith(b"--"):
        raise invalid(f"Invalid multipart request with {max(len(parts) - 2, 0)} mime parts.")
    heads: list[bytes] = []
    contents: list[bytes] = []
    for part in parts[1:3]:
        head, blank, content = part.partition(b"\r\n\r\n")
        if not blank:
            raise invalid("Invalid multipart request: a part has no blank line after its headers.")
        heads.append(head)
        contents.append(content)
    facts = parse_body(contents[0], load_api("storage.v1").methods[_INSERT])
    kind = re.search(rb"(?i)content-type:\s*([^\r\n]+)", heads[1])
    if kind and not facts.get("contentType"):
        facts["contentType"] = kind[1].decode("latin-1").strip()
    return facts, contents[1]
