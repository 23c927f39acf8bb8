"""Tests of the limit of open files, which the cloud raises for the gateway's connections."""

import resource

import pytest

from mcpfleet_local_cloud.server import raise_open_files_limit


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1024, 524288), (16384, 524288)),
        ((1024, 4096), (4096, 4096)),
        ((256, resource.RLIM_INFINITY), (16384, resource.RLIM_INFINITY)),
        ((65536, 524288), (65536, 524288)),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), (resource.RLIM_INFINITY, resource.RLIM_INFINITY)),
    ],
)
def test_the_limit_of_open_files_is_raised_and_never_lowered(monkeypatch, before, after):
    limits = {resource.RLIMIT_NOFILE: before}
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.__setitem__)
    raise_open_files_limit()
    assert limits[resource.RLIMIT_NOFILE] == after


@pytest.mark.parametrize("refusal", [OSError, ValueError])
def test_a_refused_limit_of_open_files_does_not_prevent_the_start(monkeypatch, caplog, refusal):
    def refuse(*_):
        raise refusal("not so many")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_open_files_limit()
    assert "cannot raise the limit of 256 open files" in caplog.text
