"""Service Usage v1: the enabled APIs of a project."""
