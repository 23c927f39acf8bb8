"""From a source without a Dockerfile to one: pure functions from what a folder holds to the text that builds it.

| module | says |
|---|---|
| `layout.py` | what a folder holds, as far as it is looked into |
| `build_plan.py` | what a user may decide, and what was decided |
| `python.py`, `node.py` | how a Python or a Node.js repository is installed and started |
| `generate.py` | which of them it is |
| `reads.py` | which variables of the environment a source reads |
| `shared_state.py` | which state the callers of a server share |
| `stdio.py` | a stdio server's package, with the bridge beside it |
| `inside.py` | what of a folder is its own: nothing leads out of it |
| `checkout.py` | a git repository at one commit |
| `git.py` | the user's git, which a repository does not command: the only module that starts a program |

What can't be decided is a `BuildPlanError`, which names the keys to set; nothing is guessed where two answers are
equally good. Nothing here imports pulumi.
"""

from pulumi_mcpfleet.sources.build_plan import BuildOptions, BuildPlan, BuildPlanError
from pulumi_mcpfleet.sources.generate import recipe_for
from pulumi_mcpfleet.sources.layout import Layout

__all__ = ["BuildOptions", "BuildPlan", "BuildPlanError", "Layout", "recipe_for"]
