"""Copies of the program, for measurements that edit it."""

import shutil
from pathlib import Path

from mcpfleet_local_cloud.commands.background import Place


def copy_of(place: Place, name: str) -> Path:
    """A copy of *place*'s program, in a folder of its state for the measurement *name*."""
    root = place.state / f"bench-{name}-program"
    shutil.rmtree(root, ignore_errors=True)
    leave_out = shutil.ignore_patterns(".git", ".venv", ".mcpfleet", "__pycache__", ".*_cache", ".hypothesis", "tests")
    shutil.copytree(place.root, root, ignore=leave_out)
    return root
