"""`./dev verify`: who of the local cloud calls which server."""

import pytest

from mcpfleet.tokens import IdToken
from mcpfleet.verify import Callers
from workbench.background import Place
from workbench.phases import SetupError
from workbench.verify import callers_of, verify


class Person:
    any_audience = True
    mints = False

    def __init__(self, name):
        self.name = name

    def fetch(self, audience):
        return IdToken(value=self.name, expires_at=2**40)


SERVER = {"mcp_url": "http://127.0.0.1:8080/mcp", "audience": "http://127.0.0.1:8080"}
PEOPLE = Callers(invoker=Person("ada"), stranger=Person("bob"), elsewhere=Person("deployer"))


def test_missing_credential_files_are_said_with_the_way_out(plain, tmp_path):
    with pytest.raises(SetupError) as failure:
        verify(plain, Place(root=tmp_path, state=tmp_path / "state"), {"echo": SERVER})
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
def test_who_is_expected_to_get_in_is_who_the_fleet_names(invokers, invoker, stranger):
    people = callers_of(PEOPLE, invokers)
    assert getattr(people.invoker, "name", None) == invoker
    assert getattr(people.stranger, "name", None) == stranger
