"""Cloud Run Admin API v2: services and their revisions, below `/run/v2/`.

A request goes `routes` (HTTP, permissions) → `rest.message_parser` (strict parsing) → `validation` (Google's refusals)
→ `unsupported` (what one machine cannot honour, refused by name) → `defaults` → `model` (remembers) → `rollout` (makes
it so, through `contract.DataPlane`) → `render` (Google's documents).

Jobs, worker pools, traffic splits, sidecars, volumes and secrets are not here yet. `resources.cpuIdle` and
`startupCpuBoost` are accepted and have no effect: a container here has its CPU limit all the time.
"""

from mcpfleet_local_cloud.services.run.model import RunModel
from mcpfleet_local_cloud.services.run.routes import routes

__all__ = ["RunModel", "routes"]
