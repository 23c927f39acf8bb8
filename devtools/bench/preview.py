"""One preview in its own process, for `./dev bench fleet`.

`python -m devtools.bench.preview ROOT STATE PORT PULUMI`.

It needs the engine's environment. It prints one line of JSON: the seconds of the preview, the CPU seconds of this
process (only the program's, since the engine and the plugins are other processes), its maximum memory in MiB, and the
number of resources to create.
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
    started = time.perf_counter()
    with Phases(Console(quiet=True)).phase("preview") as step:
        outcome = engine.preview(step)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - started,
                "cpu": usage.ru_utime + usage.ru_stime,
                "memory": usage.ru_maxrss / 1024,  # Linux counts it in KiB
                "resources": outcome.changes.get("create", 0),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
