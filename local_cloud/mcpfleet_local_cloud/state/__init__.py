"""The state of one local cloud: its identity, its documents and its private files, all in one directory."""
