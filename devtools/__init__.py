"""The developers' commands of `./dev`: setup, tests, checks and benchmarks.

The deployed program, `infra/`, `local_cloud/` and the containers don't use it.
"""
