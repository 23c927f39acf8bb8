"""Decides how a source is built, and generates a Dockerfile for it if it has none.

| module | subject |
|---|---|
| `layout.py` | the names and texts of a folder's files |
| `build_plan.py` | the options that a user can set, and the resulting plan |
| `python.py`, `node.py` | the Dockerfile of a Python or a Node.js repository: how it is installed and started |
| `planning.py` | selects among these |
| `environment_use.py` | the environment variables that a source reads |
| `shared_state.py` | the state that the callers of a server share |
| `stdio.py` | the Dockerfile of a stdio server's package with the bridge |
| `safe_paths.py` | reads files of a folder without following links out of it |
| `checkout.py` | a git repository at one commit |
| `git.py` | runs the user's git, isolated from the repository's settings; the only module that starts a program |

If something can't be decided, a `BuildPlanError` names the keys to set. Nothing is guessed if two answers are equally
good. Nothing here imports pulumi.
"""

from pulumi_mcpfleet.sources.build_plan import BuildOptions, BuildPlan, BuildPlanError
from pulumi_mcpfleet.sources.layout import Layout
from pulumi_mcpfleet.sources.planning import plan_build

__all__ = ["BuildOptions", "BuildPlan", "BuildPlanError", "Layout", "plan_build"]
