"""The Pulumi provider that has an image built by Google's Cloud Build, from a folder of this machine.

A provider of its own, started by the Pulumi engine as `Pulumi.yaml` says, because none that there is starts a build
(docs/adr/0021). It is the same on every cloud: endpoints and credentials are the Google provider's.

| module | says |
|---|---|
| `servicer.py`, `__main__.py` | the engine's protocol, and the process that speaks it |
| `peers.py` | who may call it: the user who runs it, by the kernel's tables |
| `image.py` | the resource: what makes a new build necessary, and what is done |
| `archive.py`, `ignored.py` | the source as one archive: the same content, the same bytes |
| `reading.py` | what of a source is its own: nothing outside of it is read |
| `builds.py` | what Cloud Build is told; a build from its beginning to its end |
| `google.py` | Google's APIs over HTTP, and in whose name |
| `registry.py` | whether an image is still in its registry |
"""
