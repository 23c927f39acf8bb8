"""The emulated docker-build provider."""
