"""The part of Google Cloud that mcpfleet uses, on one machine: real containers, real IAM, real tokens."""
