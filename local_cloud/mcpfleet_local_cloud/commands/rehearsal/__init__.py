"""`mcpfleet rehearse`: deploys the fleet of a stack for Google Cloud to a local cloud of its own, and removes it."""
