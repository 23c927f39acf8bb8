"""Emulated Pulumi providers `gcp` and `docker-build`, for machines that cannot install the real ones.

They speak the engine's gRPC protocol, take the real plugins' configuration and make the real plugins' calls
(docs/google-apis.md 0 to 2). They hold only the resource types that this project uses and refuse the rest by
name; they never call Google: without a custom endpoint a call is refused. Nothing of the programs they serve is
known here.
"""
