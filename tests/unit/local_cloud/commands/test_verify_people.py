"""`./dev verify`: who of the local cloud calls which server."""

import asyncio

import pytest

from mcpfleet.tokens import IdToken
from mcpfleet.verify import ANY_TOOL, Callers, Report
from mcpfleet_local_cloud.commands import verify as module
from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.commands.verify import select_callers, verify


class Person:
    any_audience = True
    issues_fresh_tokens = False

    def __init__(self, name):
        self.name = name

    def fetch(self, audience):
        return IdToken(value=self.name, expires_at=2**40)


SERVER = {"mcp_url": "http://127.0.0.1:8080/mcp", "audience": "http://127.0.0.1:8080"}
PEOPLE = Callers(invoker=Person("ada"), not_invoker=Person("bob"), any_audience=Person("deployer"))


def test_missing_credential_files_are_an_error_with_the_next_step(plain, tmp_path):
    with pytest.raises(SetupError) as failure:
        verify(plain, CloudFolder(root=tmp_path, state=tmp_path / "state"), {"echo": SERVER})
    assert "ada.json" in failure.value.message
    assert "./dev up" in failure.value.next_step


@pytest.mark.parametrize(
    ("invokers", "invoker", "stranger"),
    [
        (["user:ada@mcpfleet.test"], "ada", "bob"),
        (["user:bob@mcpfleet.test"], "bob", "ada"),
        ([], None, "ada"),
        (["group:all@mcpfleet.test"], None, "ada"),
        (["user:ada@mcpfleet.test", "user:bob@mcpfleet.test"], "ada", None),
        (["domain:mcpfleet.test"], "ada", None),
    ],
)
def test_expected_callers_are_the_invokers_of_the_fleet(invokers, invoker, stranger):
    people = select_callers(PEOPLE, invokers)
    assert getattr(people.invoker, "name", None) == invoker
    assert getattr(people.not_invoker, "name", None) == stranger


CLIENT = {"url": "http://127.0.0.1:8081", "access": "iam", "invokers": ["user:ada@mcpfleet.test"], "calls": ["echo"]}


@pytest.fixture
def printed(plain):
    return plain.console.file.getvalue


@pytest.fixture
def verifies(monkeypatch, plain, tmp_path):
    """`verifies(reports, **options)`: run verify with these results; return the checks of each service."""

    def run(found, look=None, **options):
        asked = {}

        async def note(service, callers, wishes, transport=None):
            asked[service.name] = (callers, wishes)
            return found.get(service.name, Report(service.name, ["a"]))

        monkeypatch.setattr(module, "check", look or note)
        monkeypatch.setattr(module, "read_callers", lambda _folder: PEOPLE)
        monkeypatch.setattr(module.AdminClient, "inventory", lambda _self: {})
        verify(plain, CloudFolder(root=tmp_path, state=tmp_path), {"echo": SERVER}, {"assistant": CLIENT}, **options)
        return asked

    return run


def test_clients_are_checked_like_servers_as_their_invokers(verifies, printed):
    asked = verifies({})
    assert set(asked) == {"echo", "assistant"}
    assert (asked["assistant"][0].invoker.name, asked["assistant"][0].not_invoker.name) == ("ada", "bob")
    assert "2 checks of 1 server and 1 client passed" in printed()


def test_a_client_that_anyone_can_call_fails_the_verification(verifies):
    with pytest.raises(SetupError) as failure:
        verifies({"assistant": Report("assistant", failed=["without a token: 403: GET / returned 200"])})
    assert "assistant: without a token: 403: GET / returned 200" in failure.value.message


def test_a_failure_is_printed_as_soon_as_it_is_known(verifies, printed, monkeypatch):
    waits = asyncio.Event()

    async def look(service, callers, wishes, transport=None):
        if service.name == "assistant":
            return Report("assistant", failed=["through it, echo does not answer: 403"])
        while "assistant: through it, echo does not answer: 403" not in printed():  # noqa: ASYNC110 - as it is printed
            await asyncio.sleep(0)
        waits.set()
        return Report("echo", ["a"])

    with pytest.raises(SetupError, match="through it, echo does not answer: 403"):
        verifies({}, look=look)
    assert waits.is_set()


def test_public_servers_and_unchecked_items_are_printed(verifies, printed):
    verifies({"echo": Report("echo", warned=["it is public"], unasked=["no tool was called: none says"])})
    assert "echo: it is public" in printed()
    assert "echo: no tool was called: none says" in printed()


def test_only_the_named_tool_and_read_only_tools_are_called(verifies):
    asked = verifies({}, call=("echo", ("cancel", {"order": 1})))
    assert asked["echo"][1].call == ("cancel", {"order": 1})
    assert verifies({})["echo"][1].call is ANY_TOOL


def test_each_check_has_the_configured_timeout(verifies):
    asked = verifies({}, seconds=300)
    assert {wishes.seconds for _callers, wishes in asked.values()} == {300}
