"""Cloud Run Admin API v2: services and their revisions, below `/run/v2/`.

A request passes through `routes` (HTTP, permissions), `rest.message_parser` (strict parsing), `validation` (Google's
own errors), `unsupported` (errors for unsupported values), `defaults`, `model` (stores the desired state), `rollout`
(applies it through `contract.DataPlane`), and `render` (Google's documents).

Jobs, worker pools and traffic splits are not supported yet. `resources.cpuIdle` and `startupCpuBoost` are accepted and
have no effect: a container here always has its CPU limit.
"""

from mcpfleet_local_cloud.services.run.model import RunModel
from mcpfleet_local_cloud.services.run.routes import routes

__all__ = ["RunModel", "routes"]
