"""What `./dev` does: sets up a machine, drives the engine on the local stack, tests and measures.

Nothing of the deployed program lives here; `infra/`, `local_cloud/` and the containers know nothing of it.
"""
