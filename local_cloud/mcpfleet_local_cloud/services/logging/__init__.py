"""Cloud Logging v2, as far as it is needed to read the log of a build."""
