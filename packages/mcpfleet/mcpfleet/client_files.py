"""Adds servers to a client's own configuration file, and removes them.

The owner's text stays: comments, order, other servers, and keys that they added to an entry of mcpfleet. An entry is
mcpfleet's if it starts `mcpfleet connect` exactly as mcpfleet writes it, or has the mark
(`mcpfleet.desktop_clients.add_mark`). The old file is kept as a backup in its folder. The new file replaces it
atomically, so that a client never reads half of it; only a file with several hard links is overwritten, so that all
of them have the new content. A file that changed meanwhile is not replaced, nor is one that cannot be parsed.
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

from mcpfleet.desktop_clients import MANAGED_KEYS, MARKS, add_mark, is_mcpfleet_entry
from mcpfleet.errors import McpfleetError
from mcpfleet.jsonc import JsoncError, is_empty, loads, remove_member, set_member

Now = Callable[[], datetime.datetime]


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@dataclass(frozen=True)
class Change:
    """A change of a file.

    Attributes:
        file: The file.
        names: The servers that were set or removed; empty if nothing had to change.
        backup: The backup of the old file; None if there was no file, or nothing changed.
        settings: The content of the file after the change.
    """

    file: Path
    names: tuple[str, ...]
    backup: Path | None
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])


def install(
    file: Path, key: str, entries: Mapping[str, Mapping[str, Any]], *, force: bool = False, now: Now = _utc_now
) -> Change:
    """Add servers to a file, or update them.

    Args:
        file: The client's configuration; it is created if it does not exist.
        key: The key of the object with the servers.
        entries: The entries of the servers, by name.
        force: Whether to replace entries that mcpfleet did not write.
        now: Returns the time, for the backup's name.

    Raises:
        McpfleetError: The file cannot be parsed, or mcpfleet did not write an entry of that name. Nothing was changed.
    """
    text = _read_text(file)
    edited = f"{text.strip()}{{}}\n" if is_empty(text) else text  # a byte-order mark stays
    try:
        old_servers = _read_servers(edited, key)
        for name, entry in entries.items():
            edited = _set_entry(edited, file, key, name, add_mark(name, entry), force=force)
        new_servers = _read_servers(edited, key)
    except JsoncError as error:
        raise _unreadable_error(file, error) from error
    changed = tuple(name for name in entries if old_servers.get(name) != new_servers[name])
    return Change(file, changed, _write(file, text, edited, now), _parse_object(edited))


def remove(file: Path, key: str, names: list[str], *, now: Now = _utc_now) -> Change:
    """Remove servers from a file: those in *names*, or all entries of mcpfleet if it is empty.

    Raises:
        McpfleetError: The file cannot be parsed, or mcpfleet did not write an entry of that name. Nothing was changed.
    """
    text = _read_text(file)
    if is_empty(text):
        return Change(file, (), None)
    try:
        servers = _read_servers(text, key)
        removed = [
            name for name in names or servers if name in servers and (names or is_mcpfleet_entry(name, servers[name]))
        ]
        for name in removed:
            if not is_mcpfleet_entry(name, servers[name]):
                raise McpfleetError(f"{file} has an entry {name} that mcpfleet did not write. Remove it by hand.")
        edited = text
        for name in removed:
            edited = remove_member(edited, [key, name])
    except JsoncError as error:
        raise _unreadable_error(file, error) from error
    return Change(file, tuple(removed), _write(file, text, edited, now))


def _set_entry(text: str, file: Path, key: str, name: str, entry: Mapping[str, Any], *, force: bool) -> str:
    servers = _read_servers(text, key)
    if name not in servers or not is_mcpfleet_entry(name, servers[name]):
        if name in servers and not force:
            raise McpfleetError(
                f"{file} already has an entry {name} that mcpfleet did not write. Nothing was changed. "
                "Rename that entry, or replace it with --force."
            )
        return set_member(text, [key, name], dict(entry))
    for managed_key in MANAGED_KEYS:  # other keys, such as env, timeout or disabled, belong to the owner
        path = [key, name, managed_key]
        text = set_member(text, path, entry[managed_key]) if managed_key in entry else remove_member(text, path)
    for outer, inner in MARKS:  # as do other headers and variables
        path = [key, name, outer, inner]
        text = set_member(text, path, entry[outer][inner]) if outer in entry else remove_member(text, path)
        if outer not in entry and servers[name].get(outer) == {inner: name}:
            text = remove_member(text, path[:-1])
    return text


def _read_servers(text: str, key: str) -> dict[str, Any]:
    """Read the servers of a file, by name; empty if the file has no such object.

    Raises:
        JsoncError: It is not JSON, or the value of the key is not an object.
    """
    servers: object = _parse_object(text).get(key, {})
    if not isinstance(servers, dict):
        raise JsoncError(f"{key} is not an object")
    return cast("dict[str, Any]", servers)


def _parse_object(text: str) -> dict[str, Any]:
    value: object = loads(text)
    if not isinstance(value, dict):
        raise JsoncError("the file is not an object")
    return cast("dict[str, Any]", value)


def _unreadable_error(file: Path, error: JsoncError) -> McpfleetError:
    return McpfleetError(f"{file}: {error}. Nothing was changed. Correct the file, then run the command again.")


def _read_text(file: Path) -> str:
    try:
        return _read_bytes(file).decode("utf-8")  # not read_text, which converts line ends
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise McpfleetError(f"Cannot read {file}: {reason}. Nothing was changed.") from error


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def _write(file: Path, old_text: str, new_text: str, now: Now) -> Path | None:
    """Replace a file's text; returns the backup of the old file, if there was one."""
    if old_text == new_text:
        return None
    old_content = old_text.encode("utf-8")
    backup: Path | None = None
    try:
        file = file.resolve()  # a symbolic link is kept
        file.parent.mkdir(parents=True, exist_ok=True)
        exists = file.exists()
        mode = file.stat().st_mode & 0o777 if exists else 0o600
        if exists:
            backup = _write_backup(file, old_content, mode, now)
        _replace_file(file, new_text.encode("utf-8"), mode, old_content)
    except _ChangedError:
        _delete_backup(backup)
        raise McpfleetError(
            f"Another program changed {file} meanwhile. mcpfleet did not change it; run the command again."
        ) from None
    except OSError as error:
        outcome = f"The old content of {file} is in {backup}."
        if backup is None or _read_bytes(file) == old_content:
            _delete_backup(backup)
            outcome = f"{file} is unchanged."
        raise McpfleetError(f"Cannot write {error.filename or file}: {error.strerror}. {outcome}") from error
    return backup


class _ChangedError(Exception):
    """Another program changed the file."""


def _delete_backup(backup: Path | None) -> None:
    if backup is not None:
        with contextlib.suppress(OSError):
            backup.unlink()


def _write_backup(file: Path, content: bytes, mode: int, now: Now) -> Path:
    """Write a backup into the file's folder, under a name that is not used yet."""
    stem = f"{file.name}.{now():%Y%m%d-%H%M%S}"
    for number in range(1, 1000):
        backup = file.with_name(f"{stem}{'' if number == 1 else f'-{number}'}.bak")
        try:
            descriptor = os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
        except FileExistsError:
            continue
        try:
            with os.fdopen(descriptor, "wb") as out:
                _write_and_sync(out, content)
            backup.chmod(mode)
        except BaseException:
            _delete_backup(backup)
            raise
        return backup
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(file.with_name(f"{stem}.bak")))


def _replace_file(file: Path, content: bytes, mode: int, expected: bytes) -> None:
    """Replace a file's content atomically.

    Raises:
        _ChangedError: The current content is not the *expected* one.
    """
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as out:
            _write_and_sync(out, content)
        Path(name).chmod(mode)
        if _read_bytes(file) != expected:
            raise _ChangedError
        if (
            file.exists() and file.stat().st_nlink > 1
        ):  # overwrite it, so that its other hard links change, too; there is a backup
            with file.open("r+b") as out:
                _write_and_sync(out, content)
            Path(name).unlink()
        else:
            Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _write_and_sync(out: IO[bytes], content: bytes) -> None:
    out.write(content)
    out.truncate()
    out.flush()
    os.fsync(out.fileno())
