"""Puts servers into a client's own configuration file, and takes them out again.

What the file's owner wrote stays: comments, order, other servers, keys that they added to an entry of ours. An entry is
ours if it starts `mcpfleet connect` just as we write it, or bears our mark (`mcpfleet.clients.marked`). The file as it
was is kept beside it, and the new one takes its place in one step: a client never reads half of it (but of a file with
several names, which is written over, so that all of them lead to what it holds). A file that somebody else changed
meanwhile is left as it is, and so is one that is not understood.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from mcpfleet.clients import MARKS, OURS, is_ours, marked
from mcpfleet.errors import McpfleetError
from mcpfleet.jsonc import JsoncError, is_empty, loads, remove_member, set_member

Now = Callable[[], datetime.datetime]


def _utc() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@dataclass(frozen=True)
class Change:
    """What was done to a file.

    Attributes:
        file: The file.
        names: The servers that were set or removed; empty where nothing had to change.
        backup: The file as it was; None where there was none, or nothing changed.
        settings: All that the file holds by now.
    """

    file: Path
    names: tuple[str, ...]
    backup: Path | None
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])


def install(
    file: Path, key: str, entries: Mapping[str, Mapping[str, Any]], *, force: bool = False, now: Now = _utc
) -> Change:
    """Set these servers in a file.

    Args:
        file: The client's configuration; made where there is none.
        key: The object that holds the servers.
        entries: The servers, by name.
        force: Replace entries of these names that somebody else wrote.
        now: The time, for the backup's name.

    Raises:
        McpfleetError: The file is not to be understood, or an entry of that name is not ours. Nothing was changed.
    """
    text = _read(file)
    edited = f"{text.strip()}{{}}\n" if is_empty(text) else text  # a byte-order mark stays
    try:
        before = _servers(edited, key)
        for name, entry in entries.items():
            edited = _set(edited, file, key, name, marked(name, entry), force=force)
        after = _servers(edited, key)
    except JsoncError as error:
        raise _unreadable(file, error) from error
    changed = tuple(name for name in entries if before.get(name) != after[name])
    return Change(file, changed, _write(file, text, edited, now), _object(edited))


def remove(file: Path, key: str, names: list[str], *, now: Now = _utc) -> Change:
    """Take servers out of a file: those named, or every one that this command put there.

    Raises:
        McpfleetError: The file is not to be understood, or an entry of that name is not ours. Nothing was changed.
    """
    text = _read(file)
    if is_empty(text):
        return Change(file, (), None)
    try:
        held = _servers(text, key)
        gone = [name for name in names or held if name in held and (names or is_ours(name, held[name]))]
        for name in gone:
            if not is_ours(name, held[name]):
                raise McpfleetError(f"{file} has an entry {name} that mcpfleet did not write; remove it by hand.")
        edited = text
        for name in gone:
            edited = remove_member(edited, [key, name])
    except JsoncError as error:
        raise _unreadable(file, error) from error
    return Change(file, tuple(gone), _write(file, text, edited, now))


def _set(text: str, file: Path, key: str, name: str, entry: Mapping[str, Any], *, force: bool) -> str:
    held = _servers(text, key)
    if name not in held or not is_ours(name, held[name]):
        if name in held and not force:
            raise McpfleetError(
                f"{file} has an entry {name} already, and mcpfleet did not write it. Nothing was changed. "
                "Rename that entry, or replace it with --force."
            )
        return set_member(text, [key, name], dict(entry))
    for one in OURS:  # further keys, such as env, timeout or disabled, are their owner's
        path = [key, name, one]
        text = set_member(text, path, entry[one]) if one in entry else remove_member(text, path)
    for outer, inner in MARKS:  # as are headers and variables beside the mark
        path = [key, name, outer, inner]
        text = set_member(text, path, entry[outer][inner]) if outer in entry else remove_member(text, path)
        if outer not in entry and held[name].get(outer) == {inner: name}:
            text = remove_member(text, path[:-1])
    return text


def _servers(text: str, key: str) -> dict[str, Any]:
    """The servers in a file, by name; none where it has no such object.

    Raises:
        JsoncError: It is not JSON, or there is something else in that place.
    """
    held: object = _object(text).get(key, {})
    if not isinstance(held, dict):
        raise JsoncError(f"{key} is not an object")
    return cast("dict[str, Any]", held)


def _object(text: str) -> dict[str, Any]:
    whole: object = loads(text)
    if not isinstance(whole, dict):
        raise JsoncError("the file is not an object")
    return cast("dict[str, Any]", whole)


def _unreadable(file: Path, error: JsoncError) -> McpfleetError:
    return McpfleetError(f"{file}: {error}. Nothing was changed; mend the file, then run this again.")


def _read(file: Path) -> str:
    try:
        return _bytes(file).decode("utf-8")  # not read_text: line ends stay what they are
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise McpfleetError(f"Cannot read {file}: {reason}. Nothing was changed.") from error


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def _write(file: Path, before: str, after: str, now: Now) -> Path | None:
    """Replace a file's text, and keep the old one; returns where."""
    if before == after:
        return None
    held = before.encode("utf-8")
    backup: Path | None = None
    try:
        file = file.resolve()  # a link stays one
        file.parent.mkdir(parents=True, exist_ok=True)
        there = file.exists()
        mode = file.stat().st_mode & 0o777 if there else 0o600
        if there:
            backup = _keep(file, held, mode, now)
        _put(file, after.encode("utf-8"), mode, held)
    except _ChangedError:
        _drop(backup)
        raise McpfleetError(f"{file} was changed meanwhile. Nothing was changed by this; run it again.") from None
    except OSError as error:
        left = f"What {file} held is in {backup}."
        if backup is None or _bytes(file) == held:
            _drop(backup)
            left = f"{file} is as it was."
        raise McpfleetError(f"Cannot write {error.filename or file}: {error.strerror}. {left}") from error
    return backup


class _ChangedError(Exception):
    """Somebody else wrote the file."""


def _drop(backup: Path | None) -> None:
    if backup is not None:
        with contextlib.suppress(OSError):
            backup.unlink()


def _keep(file: Path, held: bytes, mode: int, now: Now) -> Path:
    """Write a file's content beside it, under a name that is nobody's."""
    stem = f"{file.name}.{now():%Y%m%d-%H%M%S}"
    for number in range(1, 1000):
        kept = file.with_name(f"{stem}{'' if number == 1 else f'-{number}'}.bak")
        try:
            descriptor = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
        except FileExistsError:
            continue
        try:
            with os.fdopen(descriptor, "wb") as out:
                _flushed(out, held)
            kept.chmod(mode)
        except BaseException:
            _drop(kept)
            raise
        return kept
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(file.with_name(f"{stem}.bak")))


def _put(file: Path, content: bytes, mode: int, held: bytes) -> None:
    """Put content in the place of what a file *held*, in one step.

    Raises:
        _ChangedError: It holds something else by now.
    """
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as out:
            _flushed(out, content)
        Path(name).chmod(mode)
        if _bytes(file) != held:
            raise _ChangedError
        if file.exists() and file.stat().st_nlink > 1:  # its other names are to see what it holds; a backup is there
            with file.open("r+b") as out:
                _flushed(out, content)
            Path(name).unlink()
        else:
            Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _flushed(out: IO[bytes], content: bytes) -> None:
    out.write(content)
    out.truncate()
    out.flush()
    os.fsync(out.fileno())
