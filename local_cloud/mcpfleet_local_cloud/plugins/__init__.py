"""Emulated Pulumi providers `gcp` and `docker-build`, for machines that cannot install the real ones.

They implement the engine's gRPC protocol, take the real plugins' configuration and make the real plugins' calls
(docs/google-apis.md 0 to 2). They have only the resource types that this project uses, and name every other type in an
error. They never call Google: without a custom endpoint, a call fails. They know nothing about the programs that they
serve.
"""
