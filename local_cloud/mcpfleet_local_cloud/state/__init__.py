"""What one local cloud keeps: who it is, its documents, and its private files, all below one directory."""
