"""Identities and access: keys, tokens, IAM policies, roles, and the metadata server."""
