from tests.unit.local_cloud.front_end.conftest import signer

__all__ = ["signer"]
