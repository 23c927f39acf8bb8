"""The project's figures beside its peers'. Prints; never asserts a time."""
