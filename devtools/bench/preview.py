"""One preview in a process of its own, for `./dev bench fleet`.

`python -m devtools.bench.preview ROOT STATE PORT PULUMI`.

The environment is the engine's. It prints one line of JSON: the seconds of the preview, the CPU seconds of this
process (the program's own share: the engine and the plugins are others), the most memory that it had, in MiB, and how
many resources the preview would create.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

from rich.console import Console

from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.phases import Phases
from mcpfleet_local_cloud.commands.pulumi_engine import PulumiStack


def main(root: str, state: str, port: str, pulumi: str) -> None:
    """Preview the stack once."""
    engine = PulumiStack(
        CloudFolder(root=Path(root), state=Path(state), port=int(port)), Path(pulumi), dict(os.environ)
    )
    began = time.perf_counter()
    with Phases(Console(quiet=True)).phase("preview") as step:
        outcome = engine.preview(step)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - began,
                "cpu": used.ru_utime + used.ru_stime,
                "memory": used.ru_maxrss / 1024,  # Linux counts it in KiB
                "resources": outcome.changes.get("create", 0),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
