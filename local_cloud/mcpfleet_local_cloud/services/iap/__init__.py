"""Identity-Aware Proxy v1, as far as Cloud Run services are behind it."""
