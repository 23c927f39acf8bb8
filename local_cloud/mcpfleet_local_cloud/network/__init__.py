"""HTTP connections, independent of their content: listeners, their protocol, and connections to containers."""
