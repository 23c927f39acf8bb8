"""Identity-Aware Proxy v1, for Cloud Run services."""
