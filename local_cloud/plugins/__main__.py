"""`python -m local_cloud.plugins`: serve the stand-in providers until told to stop."""

from local_cloud.plugins.server import main

main()
