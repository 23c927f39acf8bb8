"""The tunnel between the local cloud's process on the host and the gateway container on the services' networks.

`protocol`, `relay`, `resolver` and `container` run in the container, with only the standard library; `tunnel` is the
host's end; `program` packs the container's files. ADR 0028 has the reasons.
"""
