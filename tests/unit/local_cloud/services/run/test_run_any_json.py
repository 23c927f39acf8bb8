"""Whatever JSON is sent, the answer is a service or a clear refusal: never a fault of the cloud."""

import asyncio
import copy
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcpfleet_local_cloud.rest.schemas import load_api

MESSAGES = load_api("run.v2").schemas
IMAGE = "docker.io/acme/hello"
STRINGS = st.text(max_size=8) | st.sampled_from(
    [
        "",
        "hello",
        IMAGE,
        "1",
        "512Mi",
        "5s",
        "0.5s",
        "run.googleapis.com/x",
        "GA",
        "AUTOMATIC",
        "MANUAL",
        "http1",
        "\0",
        "\ud800",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | STRINGS


def of_kind(kind: str, depth: int) -> st.SearchStrategy[Any]:
    """Mostly what *kind* wants, sometimes anything."""
    kind = kind.removesuffix("!")
    if kind.startswith("["):
        return st.lists(of_kind(kind[1:-1], depth), max_size=2)
    if kind in MESSAGES and depth:
        fields = {name: of_kind(field_kind, depth - 1) for name, field_kind in MESSAGES[kind].items()}
        return st.fixed_dictionaries({}, optional=fields)
    if kind == "{string}":
        return st.dictionaries(STRINGS | st.sampled_from(["cpu", "memory"]), STRINGS, max_size=2)
    if kind.startswith("int"):
        return st.integers(-2, 300) | SCALARS
    if kind.startswith("enum "):
        return st.sampled_from(kind.removeprefix("enum ").split("|"))
    return st.booleans() if kind == "bool" else STRINGS | SCALARS


ANY_JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3)
)
SERVICES = of_kind("Service", 5)
ACCOUNT = "mcp-hello@demo.iam.gserviceaccount.com"
GOOD = {"template": {"containers": [{"image": IMAGE}], "serviceAccount": ACCOUNT}}
SPRINKLED = st.fixed_dictionaries(
    {}, optional={name: of_kind(kind, 3) for name, kind in MESSAGES["Service"].items()}
).map(lambda extra: {**extra, **copy.deepcopy(GOOD)})
TEMPLATES = st.fixed_dictionaries(
    {}, optional={name: of_kind(kind, 3) for name, kind in MESSAGES["RevisionTemplate"].items() if name != "containers"}
).map(lambda extra: {"template": {**extra, "containers": copy.deepcopy(GOOD["template"]["containers"])}})
CONTAINERS = of_kind("Container", 4).map(lambda one: {"template": {"containers": [{"image": IMAGE, **one}]}})


@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(body=ANY_JSON | SERVICES | SPRINKLED | TEMPLATES | CONTAINERS)
def test_any_json_is_a_service_or_a_clear_refusal(new_world: Any, body: Any):
    async def scenario() -> None:
        world = new_world()
        content = json.dumps(body).encode()
        headers = {"Authorization": "Bearer ann@x.org"}
        base = "/run/v2/projects/demo/locations/europe-west1/services"
        try:
            created = await world.client.post(f"{base}?serviceId=hello", content=content, headers=headers)
            if created.status_code == 200:
                done = await world.finish(created.json())
                assert "error" not in done, done
                service_document = (await world.client.get(f"{base}/hello", headers=headers)).json()
                assert "projects/demo" in service_document["name"]
            await world.create(GOOD, "other")
            patched = await world.client.patch(f"{base}/other", content=content, headers=headers)
            for answer in (created, patched):
                assert answer.status_code in (200, 400, 403, 404, 409, 501), answer.text
                if answer.status_code != 200:
                    assert answer.json()["error"]["message"]
            if patched.status_code == 200:
                assert "error" not in await world.finish(patched.json())
        finally:
            await world.close()

    asyncio.run(scenario())
