from tests.unit.local_cloud.commands.conftest import clock, engine, host, paths, plain, process, step

__all__ = ["clock", "engine", "host", "paths", "plain", "process", "step"]
