"""The part of Google Cloud that mcpfleet touches, on one machine: real containers, real IAM, real tokens."""
