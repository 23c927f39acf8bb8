"""Tests of how long the gcp provider waits for an API that does not respond."""

import httpx2
import pytest

from mcpfleet_local_cloud.plugins.call import Call, ProviderError
from mcpfleet_local_cloud.plugins.gcp.config import configure
from mcpfleet_local_cloud.plugins.gcp.transport import Api

BASE = "http://127.0.0.1:9"
REFUSED = httpx2.ConnectError("Connection refused")
BUSY = (503, {"error": {"code": 503, "message": "busy"}})


class Clock:
    """A clock that advances only while something waits; it also replaces the event that Ctrl-C sets."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def is_set(self):
        return False

    def wait(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def api(wire):
    settings = {"project": "acme", "accessToken": "token", "cloudRunV2CustomEndpoint": f"{BASE}/run/v2/"}
    return Api(configure(settings, {}), httpx2.MockTransport(wire))


def get(api, clock, path):
    return api.send(Call(clock=clock, cancelled=clock), "GET", "cloudRunV2CustomEndpoint", path)


def test_a_cloud_that_restarts_within_seconds_only_delays_the_call(api, wire, clock):
    wire.answers["GET /run/v2/a"] = [REFUSED, REFUSED, REFUSED, BUSY, {"name": "a"}]
    assert get(api, clock, "a") == {"name": "a"}
    assert clock.now > 0


def test_a_stopped_cloud_is_waited_for_once_for_all_resources(api, wire, clock):
    wire.answers |= {"GET /run/v2/a": REFUSED, "GET /run/v2/b": REFUSED}
    with pytest.raises(ProviderError, match=r"no answer for 15 s: Connection refused. Is the local cloud running\?"):
        get(api, clock, "a")
    assert 15 < clock.now < 20
    started = clock.now
    with pytest.raises(ProviderError, match="no answer for 15 s"):
        get(api, clock, "b")
    assert clock.now == started


def test_a_cloud_that_responded_again_is_waited_for_again(api, wire, clock):
    wire.answers |= {"GET /run/v2/a": REFUSED, "GET /run/v2/b": {"name": "b"}}
    with pytest.raises(ProviderError):
        get(api, clock, "a")
    assert get(api, clock, "b") == {"name": "b"}
    started = clock.now
    with pytest.raises(ProviderError):
        get(api, clock, "a")
    assert clock.now - started > 15


def test_a_busy_api_gets_more_time_than_an_unreachable_one(api, wire, clock):
    wire.answers["GET /run/v2/a"] = BUSY
    with pytest.raises(ProviderError, match="Error 503: busy"):
        get(api, clock, "a")
    assert 90 < clock.now < 100
