"""The Pulumi provider that builds an image with Google's Cloud Build, from a folder of this machine.

It is a separate provider because no existing one starts a build (docs/adr/0021). The Pulumi engine starts it as
`Pulumi.yaml` says. It is the same on every cloud: endpoints and credentials are the Google provider's.

| module | subject |
|---|---|
| `servicer.py`, `__main__.py` | the engine's protocol, and the process that serves it |
| `peers.py` | who may call it: the user who runs it, by the kernel's tables |
| `image.py` | the resource: which changes need a new build, and its operations |
| `archive.py`, `ignore_files.py` | the source as one archive: the same content, the same bytes |
| `source_files.py` | reads the files of a source, and nothing outside of it |
| `builds.py` | the request to Cloud Build, and the build from start to end |
| `google.py` | Google's APIs over HTTP, with their credentials |
| `registry.py` | whether an image is still in its registry |
"""
