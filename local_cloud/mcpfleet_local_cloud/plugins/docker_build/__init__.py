"""The stand-in for pulumi-docker-build."""
