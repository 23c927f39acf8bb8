"""Query parameters as Google's front end binds them: both spellings, types checked, unknown ones refused by name."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CONTAINER = {"template": {"containers": [{"image": "us-docker.pkg.dev/cloudrun/container/hello"}]}}


@pytest.fixture
def services(running: Any) -> str:
    running.enable("run", "iam", "secretmanager", "artifactregistry", "compute", "storage")
    return f"/run/v2/projects/{running.project}/locations/europe-west1/services"


@pytest.mark.parametrize("spelling", ["validateOnly=true", "validate_only=true", "validate_only=TRUE"])
def test_validate_only_in_either_spelling_creates_no_service(running: Any, services: str, spelling: str) -> None:
    answer = running.call("POST", f"{services}?service_id=tried&{spelling}", CONTAINER)

    assert answer.status_code == 200, answer.text
    assert running.call("GET", f"{services}/tried").status_code == 404


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("serviceId=a&dryRun=true", "dryRun"),
        ("serviceId=a&validateOnly=perhaps", "Invalid value at 'validate_only' (TYPE_BOOL), \"perhaps\""),
        ("serviceId=a&validateOnly=", "Invalid value at 'validate_only' (TYPE_BOOL)"),
        ("serviceId=a&service_id=b", "serviceId"),
    ],
)
def test_an_invalid_query_parameter_is_refused_by_name(running: Any, services: str, query: str, message: str) -> None:
    answer = running.call("POST", f"{services}?{query}", CONTAINER)

    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert message in answer.json()["error"]["message"]
    assert running.call("GET", services).json() == {}


@pytest.mark.parametrize(
    "path",
    [
        "/run/v2/projects/{}/locations/europe-west1/services?",
        "/secretmanager/v1/projects/{}/secrets?",
        "/artifactregistry/v1/projects/{}/locations/europe-west1/repositories?",
        "/compute/v1/projects/{}/global/networks?",
        "/iam/v1/projects/{}/serviceAccounts?",
        "/storage/v1/b?project={}&",
        "/crm/v1/projects/{}?",
        "/serviceusage/v1/projects/{}/services?",
    ],
)
def test_every_api_refuses_unknown_parameters_and_accepts_system_parameters(
    running: Any, services: str, path: str
) -> None:
    url = path.format(running.project)

    refused = running.call("GET", f"{url}nope=1")
    assert refused.status_code == 400
    assert (
        "\"nope\": Cannot bind query parameter. Field 'nope' could not be found" in refused.json()["error"]["message"]
    )
    assert running.call("GET", f"{url}alt=json&prettyPrint=false&%24alt=json%3Benum-encoding%3Dint").is_success


def test_unsupported_query_parameters_are_refused_by_name(running: Any, services: str) -> None:
    answer = running.call("GET", f"/secretmanager/v1/projects/{running.project}/secrets?filter=labels.a%3Db")

    assert (answer.status_code, answer.json()["error"]["status"]) == (501, "UNIMPLEMENTED")
    assert answer.json()["error"]["message"].startswith("filter: ")


def test_an_invalid_integer_is_refused(running: Any, services: str) -> None:
    answer = running.call("GET", f"{services}?page_size=ten")

    assert answer.json()["error"]["message"] == "Invalid value at 'page_size' (TYPE_INT32), \"ten\""


def test_page_sizes_are_limited_in_either_spelling(running: Any, services: str) -> None:
    for name in ("a", "b"):
        body = {"replication": {"automatic": {}}}
        running.call("POST", f"/secretmanager/v1/projects/{running.project}/secrets?secret_id={name}", body)

    answer = running.call("GET", f"/secretmanager/v1/projects/{running.project}/secrets?page_size=1").json()

    assert len(answer["secrets"]) == 1
    assert answer["nextPageToken"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.lists(st.tuples(st.sampled_from(["pageSize", "page_token", "alt", "x"]), st.text(max_size=8))))
def test_no_query_makes_a_list_fail(running: Any, query: list[tuple[str, str]]) -> None:
    running.enable("secretmanager")
    encodable = [(name, value) for name, value in query if value.isprintable()]

    answer = running.call("GET", f"/secretmanager/v1/projects/{running.project}/secrets", params=encodable)

    assert answer.status_code in (200, 400, 501)
