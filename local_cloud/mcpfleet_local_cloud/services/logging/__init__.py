"""Cloud Logging v2, as far as reading the log of a build needs it."""
