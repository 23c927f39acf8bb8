"""HTTP in and out, with no idea of what is said: listeners, their protocol, and connections to containers."""
