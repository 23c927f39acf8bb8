"""Short-lived containers that do one thing for the local cloud."""

import asyncio
from types import SimpleNamespace

import pytest

from mcpfleet_local_cloud.data_plane.contract import RolloutError
from mcpfleet_local_cloud.data_plane.engine import APIError, CloudContainers

STOPPED = APIError('500 Server Error: Internal Server Error ("cannot start a stopped process: unknown")')


def engine_that(*answers):
    """Return an engine whose Docker gives these results of `docker run` in turn, and the list of its calls."""
    left, asked = list(answers), []

    def run(**spec):
        asked.append(spec)
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    client = SimpleNamespace(containers=SimpleNamespace(run=run), info=dict, version=dict)
    return CloudContainers("cloud", lambda: client), asked


def test_a_container_that_docker_could_not_start_is_started_once_more():
    engine, asked = engine_that(STOPPED, b"")
    asyncio.run(engine.open_volume("disk", "base"))
    assert [spec["command"] for spec in asked] == [["chmod 1777 /v"]] * 2


@pytest.mark.parametrize("answers", [(STOPPED, STOPPED), (APIError("404 Client Error: Not Found"),)])
def test_a_volume_that_cannot_be_opened_fails_the_rollout_with_dockers_reason(answers):
    engine, asked = engine_that(*answers)
    with pytest.raises(RolloutError, match="A volume on disk cannot be created: "):
        asyncio.run(engine.open_volume("disk", "base"))
    assert len(asked) == len(answers)
