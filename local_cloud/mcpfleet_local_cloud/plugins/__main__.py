"""`python -m mcpfleet_local_cloud.plugins`: serve the emulated providers until told to stop."""

from mcpfleet_local_cloud.plugins.server import main

main()
