"""The commands that run a stack on the local cloud: they set up a machine, drive the engine, verify, and clean up."""
