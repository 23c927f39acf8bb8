"""`python -m mcpfleet_local_cloud.plugins`: serves the emulated providers until a signal stops it."""

from mcpfleet_local_cloud.plugins.server import main

main()
