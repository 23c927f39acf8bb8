"""Puts servers into a client's own configuration file, and takes them out again.

What the file's owner wrote stays: comments, order, other servers, keys that they added to an entry of ours. The file
as it was is kept beside it, and the new one takes its place in one step: a client never reads half of it.
"""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mcpfleet.clients import OURS, is_ours
from mcpfleet.errors import McpfleetError
from mcpfleet.jsonc import JsoncError, loads, remove_member, set_member

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
    """

    file: Path
    names: tuple[str, ...]
    backup: Path | None


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
    edited = text if text.strip() else "{}\n"
    try:
        for name, entry in entries.items():
            edited = _set(edited, file, key, name, entry, force=force)
    except JsoncError as error:
        raise _unreadable(file, error) from error
    changed = tuple(name for name in entries if _entry(text, key, name) != _entry(edited, key, name))
    return Change(file, changed, _write(file, text, edited, now))


def remove(file: Path, key: str, names: list[str], *, now: Now = _utc) -> Change:
    """Take servers out of a file: those named, or every one that this command put there.

    Raises:
        McpfleetError: The file is not to be understood, or an entry of that name is not ours. Nothing was changed.
    """
    text = _read(file)
    if not text.strip():
        return Change(file, (), None)
    try:
        held = cast("dict[str, Any]", _object(loads(text)).get(key) or {})
        gone = [name for name in names if name in held] if names else [name for name in held if is_ours(held[name])]
        for name in gone:
            if not is_ours(held[name]):
                raise McpfleetError(f"{file} has an entry {name} that mcpfleet did not write; remove it by hand.")
        edited = text
        for name in gone:
            edited = remove_member(edited, [key, name])
    except JsoncError as error:
        raise _unreadable(file, error) from error
    return Change(file, tuple(gone), _write(file, text, edited, now))


def _set(text: str, file: Path, key: str, name: str, entry: Mapping[str, Any], *, force: bool) -> str:
    held = _entry(text, key, name)
    if held is None:
        return set_member(text, [key, name], dict(entry))
    if not is_ours(held):
        if not force:
            raise McpfleetError(
                f"{file} has an entry {name} already, and mcpfleet did not write it. Nothing was changed. "
                "Rename that entry, or replace it with --force."
            )
        return set_member(text, [key, name], dict(entry))
    for one in OURS:  # further keys, such as env, timeout or disabled, are their owner's
        path = [key, name, one]
        text = set_member(text, path, entry[one]) if one in entry else remove_member(text, path)
    return text


def _entry(text: str, key: str, name: str) -> Any:
    held = _object(loads(text)).get(key) if text.strip() else None
    return cast("dict[str, Any]", held).get(name) if isinstance(held, dict) else None


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise JsoncError("the file is not an object")
    return cast("dict[str, Any]", value)


def _unreadable(file: Path, error: JsoncError) -> McpfleetError:
    return McpfleetError(f"{file}: {error}. Nothing was changed; mend the file, then run this again.")


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")  # not read_text: line ends stay what they are
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise McpfleetError(f"Cannot read {file}: {reason}. Nothing was changed.") from error


def _write(file: Path, before: str, after: str, now: Now) -> Path | None:
    """Replace a file's text, and keep the old one; returns where."""
    if before == after:
        return None
    file = file.resolve()  # a link stays one
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        there = file.exists()
        mode = file.stat().st_mode & 0o777 if there else 0o600
        backup = _backup_name(file, now) if there else None
        if backup is not None:
            _put(backup, before, mode)
        _put(file, after, mode)
    except OSError as error:
        raise McpfleetError(f"Cannot write {error.filename or file}: {error.strerror}. {file} is as it was.") from error
    return backup


def _backup_name(file: Path, now: Now) -> Path:
    stem = f"{file.name}.{now():%Y%m%d-%H%M%S}"
    names = (file.with_name(f"{stem}{more}.bak") for more in ("", *(f"-{number}" for number in range(2, 1000))))
    return next(name for name in names if not name.exists())


def _put(file: Path, text: str, mode: int) -> None:
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(text.encode("utf-8"))
            out.flush()
            os.fsync(out.fileno())
        Path(name).chmod(mode)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
