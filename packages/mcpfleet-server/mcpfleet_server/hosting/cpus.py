"""How many CPUs the container has: what it may run on, and what share of that it is given."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def whole_cpus(cgroup: Path = _CGROUP, runnable: int | None = None) -> int:
    """The whole CPUs that this process may use; 1 if it is less than one.

    Args:
        cgroup: Where the kernel shows the container's limits (both of its versions are read).
        runnable: How many CPUs the process may run on; asked of the kernel if it isn't given.
    """
    runnable = len(os.sched_getaffinity(0)) if runnable is None else runnable
    quota = _quota(cgroup)
    return max(1, runnable if quota is None else min(runnable, int(quota)))


def _quota(cgroup: Path) -> float | None:
    try:
        limit, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            limit = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    if not (limit.isdecimal() and period.isdecimal()):
        return None  # "max" and -1 are no limit
    return int(limit) / max(1, int(period))
