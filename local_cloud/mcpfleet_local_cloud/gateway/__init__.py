"""The tunnel between the local cloud's process on the host and the gateway container beside the services' containers.

Both ends are here: `wire`, `relay`, `resolver` and `container` are what runs in the container, on the standard library
alone; `tunnel` is the end on the host; `program` packs the one for the other. ADR 0028 has the reasons.
"""
