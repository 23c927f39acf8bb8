"""Reads the values that a rehearsal's secrets get (`--secrets FILE`)."""

import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final, cast

import yaml

from mcpfleet_local_cloud.commands.phases import SetupError

_MAX_BYTES: Final = 1 << 20


def read_secret_values(file: Path) -> dict[str, str]:
    """Read a YAML mapping of names to values. No message has any part of a value.

    Raises:
        SetupError: Other users can read the file, or it is not such a mapping.
    """
    form = "write one line for each secret: NAME: VALUE."
    try:
        # Not a named pipe, which would block, and not another user's file behind a link.
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as stream:
            facts = os.fstat(stream.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise SetupError(f"--secrets {file}: is not a file. Nothing was deployed.", "name a file.")
            if facts.st_mode & 0o077 or facts.st_uid != os.getuid():
                raise SetupError(
                    f"--secrets {file}: other users can read or change it. Nothing was deployed.",
                    f"type: chmod 600 {file}   (and own it yourself)",
                )
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise SetupError(f"--secrets {file}: {error.strerror}. Nothing was deployed.", "name a file.") from None
    if len(content) > _MAX_BYTES:
        raise SetupError(f"--secrets {file}: is larger than 1 MiB. Nothing was deployed.", form)
    try:
        values: Any = yaml.safe_load(content.decode())
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError):
        # The parser's own message quotes the file.
        raise SetupError(f"--secrets {file}: is not valid YAML. Nothing was deployed.", form) from None
    if not isinstance(values, dict):
        raise SetupError(f"--secrets {file}: is not a mapping. Nothing was deployed.", form)
    entries = cast("dict[Any, Any]", values)
    if not all(isinstance(name, str) and isinstance(value, str) and value for name, value in entries.items()):
        raise SetupError(
            f"--secrets {file}: a name or a value is empty or not text. Nothing was deployed.",
            'put values that look like numbers in quotes: NAME: "4711".',
        )
    return entries


def check_names(file: Path, given: Collection[str], known: Collection[str]) -> None:
    """Check that each name in the file is that of a secret of the stack: a mistyped one would get a dummy.

    The message does not have the unknown names: in a malformed file, they may be values.

    Raises:
        SetupError: A name is unknown.
    """
    unknown = set(given) - set(known)
    if unknown:
        raise SetupError(
            f"--secrets {file}: has {len(unknown)} name(s) that are no secret of the stack. Nothing was deployed.",
            f"use these names: {', '.join(sorted(known)) or 'none; leave --secrets out'}.",
        )
