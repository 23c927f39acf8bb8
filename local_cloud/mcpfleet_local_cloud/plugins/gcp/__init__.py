"""The emulated gcp provider."""
