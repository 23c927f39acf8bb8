"""Small files of a cloud's state that only their owner may read."""

import os
import tempfile
from pathlib import Path


def write_private(path: Path, content: str) -> None:
    """Write *content* with mode 0600, whole or not at all, however the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # mkstemp makes the file 0600, so nobody can read it even for a moment.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
