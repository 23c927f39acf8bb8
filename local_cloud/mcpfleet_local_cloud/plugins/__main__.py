"""`python -m mcpfleet_local_cloud.plugins`: serve the stand-in providers until told to stop."""

from mcpfleet_local_cloud.plugins.server import main

main()
