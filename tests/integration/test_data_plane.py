"""The data plane with real containers: failing revisions, restarts, and the guarantees for a container."""

import asyncio
import json
from dataclasses import replace

import pytest

from mcpfleet_local_cloud.data_plane import gateway_container
from mcpfleet_local_cloud.data_plane.contract import OpenError, Probe, RolloutError
from mcpfleet_local_cloud.data_plane.engine import CloudContainers
from tests.integration.planes import EMAIL, QUICK, SERVER, SERVICE, a_world, attempts, connect, get, python, serve

pytestmark = pytest.mark.integration

EMAIL_PATH = "/metadata/computeMetadata/v1/instance/service-accounts/default/email"

UNHEALTHY = """
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503)
        self.end_headers()
        self.wfile.write(json.dumps({"status": "unhealthy", "reason": "KeyError: 'API_KEY'"}).encode())
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""


@pytest.fixture
def world(tmp_path):
    with a_world(tmp_path) as world:
        yield world


@pytest.mark.parametrize(
    ("code", "changes", "google", "advice"),
    [
        pytest.param(
            "import time; print('I sleep', flush=True); time.sleep(99)",
            {},
            "failed to start and listen on the port defined provided by the PORT=8080 environment variable",
            "nothing in it listens on any port",
            id="never listens",
        ),
        pytest.param(
            "import sys; print('no DATABASE_URL', flush=True); sys.exit(3)",
            {},
            "Container called exit(3).",
            "failed at start",
            id="crashes",
        ),
        pytest.param(
            SERVER,
            {"env": (("BIND", "127.0.0.1"),)},
            "failed to start and listen on the port",
            "listens on 127.0.0.1:8080, which nothing outside the container reaches. Let it listen on 0.0.0.0:8080",
            id="listens on 127.0.0.1",
        ),
        pytest.param(
            SERVER,
            {"env": (("LISTEN", "5000"),)},
            "failed to start and listen on the port",
            "listens on port 5000, not on 8080",
            id="listens on another port",
        ),
        pytest.param(
            "print('eating', flush=True); x = bytearray(400 * 2**20); x[:] = b'1' * len(x)",
            {"memory_bytes": 64 * 2**20},
            "Memory limit of 64 MiB exceeded",
            "more memory",
            id="out of memory",
        ),
        pytest.param(
            SERVER,
            {"startup_probe": replace(QUICK, http_path="/missing-501", port=8080), "env": (("LISTEN", "5000"),)},
            "failed the configured startup probe checks",
            "listens on port 5000",
            id="HTTP probe fails",
        ),
        pytest.param(
            UNHEALTHY,
            {"startup_probe": replace(QUICK, http_path="/health", port=8080)},
            "failed the configured startup probe checks",
            "the program needs the environment variable API_KEY.",
            id="says that it is unhealthy",
        ),
    ],
)
def test_a_revision_that_cannot_serve_fails_with_the_reason_and_leaves_nothing(world, code, changes, google, advice):
    async def scenario():
        async with world.plane() as plane:
            with pytest.raises(RolloutError) as refusal:
                await plane.start(python(code, **changes))
            text = str(refusal.value)
            assert text.startswith("Revision 'echo-00001-abc' is not ready and cannot serve traffic. ")
            assert google in text.partition("\n")[0]
            assert advice in text.rpartition("What to change: ")[2]
            assert world.containers() == []
            assert (await plane.logs(SERVICE)) or code in (SERVER, UNHEALTHY)

    world.run(scenario)


def test_a_missing_program_is_named_in_the_error(world):
    async def scenario():
        async with world.plane() as plane:
            with pytest.raises(RolloutError, match=r"no-such-program.*not found"):
                await plane.start(python("", command=("no-such-program",)))
            assert world.containers() == []

    world.run(scenario)


def test_a_missing_image_is_named_in_the_error(world):
    async def scenario():
        async with world.plane() as plane:
            with pytest.raises(RolloutError, match=r"Image '127\.0\.0\.1:9/x/y:1' could not be fetched"):
                await plane.resolve("127.0.0.1:9/x/y:1")

    world.run(scenario)


def test_a_crash_at_startup_is_reported_before_the_startup_probe_times_out(world):
    async def scenario():
        async with world.plane() as plane:
            patient = Probe(port=8080, timeout=240, period=240, failure_threshold=1)
            async with asyncio.timeout(20):
                with pytest.raises(RolloutError):
                    await plane.start(python("raise SystemExit(1)", startup_probe=patient))

    world.run(scenario)


def test_a_container_gets_cloud_runs_environment_and_runs_as_process_1(world):
    async def scenario():
        async with world.plane() as plane:
            await serve(plane, python(SERVER, env=(("MCP_PATH", "/mcp"),)))
            status, body = await get(plane, "/env")
            env = json.loads(body)
            assert (status, env["pid"]) == (200, 1)
            assert (env["PORT"], env["K_SERVICE"], env["K_REVISION"]) == ("8080", "echo", "echo-00001-abc")
            assert env["MCP_PATH"] == "/mcp"

    world.run(scenario)


def test_a_container_gets_an_id_token_from_the_metadata_server(world):
    async def scenario():
        async with world.plane() as plane:
            await serve(plane, python(SERVER))
            path = "/metadata/computeMetadata/v1/instance/service-accounts/default/identity?audience=https://a"
            status, token = await get(plane, path)
            claims = world.identity.verify_id_token(token.decode())
            assert (status, claims.email, claims.audience) == (200, EMAIL, "https://a")

    world.run(scenario)


def test_a_stream_arrives_chunk_by_chunk(world):
    async def scenario():
        async with world.plane() as plane:
            await serve(plane, python(SERVER))
            reader, writer = await connect(plane, "/stream")
            seen = await reader.readuntil(b"one\r\n")  # the server sends the rest only after /go
            assert b"two" not in seen
            await get(plane, "/go")
            assert (await reader.read()).endswith(b"two\r\n0\r\n\r\n")
            writer.close()

    world.run(scenario)


def test_a_killed_container_is_replaced_and_its_requests_get_503(world):
    async def scenario():
        async with world.plane() as plane:
            await serve(plane, python(SERVER))
            (before,) = world.containers()
            hanging = asyncio.create_task(get(plane, "/hang"))
            await get(plane, "/env")  # `/hang` went first
            await asyncio.to_thread(before.kill, "SIGKILL")
            assert (await hanging)[0] == 503
            status, name = await get(plane, "/")
            async for _ in attempts():
                if before.id not in [each.id for each in world.containers()]:
                    break
            (after,) = world.containers()
            assert (status, after.short_id) == (200, name.decode())
            assert after.id != before.id
            assert "Container called exit(137)." in await plane.logs(SERVICE)

    world.run(scenario)


class RestartedDocker(CloudContainers):
    """Docker that does not answer for a while, as when it is started again."""

    def __init__(self, cloud_id):
        super().__init__(cloud_id)
        self.away = False
        self.refused = asyncio.Event()

    async def inspect(self, container_id):
        if self.away:
            self.refused.set()
            raise ConnectionError("Docker is being started again")
        return await super().inspect(container_id)


def test_containers_that_ended_while_docker_was_unreachable_are_removed_later(world):
    async def scenario():
        engine = RestartedDocker(world.cloud_id)
        async with world.plane(engine=engine) as plane:
            await serve(plane, python(SERVER))
            (before,) = world.containers()
            engine.away = True
            await asyncio.to_thread(before.kill, "SIGKILL")
            await engine.refused.wait()
            engine.away = False
            async for _ in attempts():
                gone = before.id not in [each.id for each in world.containers()]
                if gone and "Container called exit(137)." in await plane.logs(SERVICE):
                    break
            assert (await get(plane, "/"))[0] == 200

    world.run(scenario)


def test_an_instance_whose_liveness_probe_fails_is_replaced(world):
    async def scenario():
        async with world.plane() as plane:
            probe = Probe(port=8080, http_path="/alive", timeout=1, period=1, failure_threshold=2)
            await serve(plane, python(SERVER, liveness_probe=probe))
            _, before = await get(plane, "/")
            await get(plane, "/sick")
            after = before
            async for _ in attempts():
                status, after = await get(plane, "/")
                if after != before:
                    break
            assert status == 200

    world.run(scenario)


def test_full_instances_cause_new_ones_up_to_the_maximum(world):
    async def scenario():
        async with world.plane() as plane:
            await serve(plane, python(SERVER, concurrency=1, max_instances=2))
            answers = await asyncio.gather(*(get(plane, "/slow") for _ in range(4)))
            assert {status for status, _ in answers} == {200}
            assert len(world.containers()) == 2

    world.run(scenario)


def test_an_idle_service_scales_to_zero_and_starts_for_a_request(world):
    async def scenario():
        async with world.plane(idle_after=0.5) as plane:
            await serve(plane, python(SERVER))
            async for _ in attempts():
                if not world.containers():
                    break
            assert (await get(plane, "/"))[0] == 200

    world.run(scenario)


def test_a_new_process_takes_over_the_running_containers_of_the_last_one(world):
    async def scenario():
        revision = python(SERVER)
        async with world.plane() as plane:
            await serve(plane, revision)
            address = plane.address(SERVICE)
            (before,) = world.containers()
        async with world.plane() as plane:
            await serve(plane, revision)
            assert [each.id for each in world.containers()] == [before.id]
            assert plane.address(SERVICE) == address
            assert (await get(plane, "/"))[0] == 200
            before.kill("SIGKILL")  # it is watched as before
            assert (await get(plane, "/"))[0] in (200, 503)
            async for _ in attempts():
                if before.id not in [each.id for each in world.containers()]:
                    break
            assert (await get(plane, "/"))[0] == 200

    world.run(scenario)


def test_a_killed_gateway_container_restarts_and_every_service_is_reachable_again(world):
    async def scenario():
        async with world.plane() as plane:
            await serve(plane, python(SERVER))
            before = world.gateway()
            hanging = asyncio.create_task(get(plane, "/hang"))
            await get(plane, "/env")  # `/hang` went first
            await asyncio.to_thread(before.kill, "SIGKILL")
            assert (await hanging)[0] == 503
            async for _ in attempts():
                if (await get(plane, "/"))[0] == 200:
                    break
            assert (await get(plane, EMAIL_PATH)) == (200, EMAIL.encode())
            await asyncio.to_thread(before.remove, force=True, v=True)
            async for _ in attempts():
                if (await get(plane, "/"))[0] == 200:
                    break
            assert world.gateway().id != before.id
            assert (await get(plane, EMAIL_PATH)) == (200, EMAIL.encode())
            assert len(world.containers()) == 1, "the instance never went away"

    world.run(scenario)


def test_a_gateway_container_that_exits_at_startup_is_reported_with_its_output(world, monkeypatch):
    monkeypatch.setattr(gateway_container, "COMMAND", ("python", "-c", "raise SystemExit('no more memory')"))

    async def scenario():
        with pytest.raises(OpenError, match=r"ended during its start\. Its log:\nno more memory"):
            async with world.plane():
                pass

    world.run(scenario)


def test_a_new_process_takes_over_or_restarts_the_gateway_container(world):
    async def scenario():
        revision = python(SERVER)
        async with world.plane() as plane:
            await serve(plane, revision)
            before = world.gateway()
        async with world.plane() as plane:
            await serve(plane, revision)
            assert world.gateway().id == before.id
        await asyncio.to_thread(before.kill)
        async with world.plane() as plane:
            await serve(plane, revision)
            assert world.gateway().id == before.id
            assert (await get(plane, EMAIL_PATH)) == (200, EMAIL.encode())

    world.run(scenario)


def test_containers_that_no_revision_needs_are_removed(world):
    async def scenario():
        kept, gone = python(SERVER), python(SERVER, name="echo-00002-abc")
        async with world.plane() as plane:
            await asyncio.gather(plane.start(kept), plane.start(gone))
        async with world.plane() as plane:
            await plane.sweep([kept])
            assert [each.labels["dev.mcpfleet.revision"] for each in world.containers()] == [kept.name]

    world.run(scenario)


def test_a_retired_revision_finishes_its_requests_and_then_gets_sigterm(world):
    async def scenario():
        async with world.plane() as plane:
            old, new = python(SERVER), python(SERVER, name="echo-00002-abc")
            await serve(plane, old)
            slow = asyncio.create_task(get(plane, "/slower"))
            await get(plane, "/arrived")
            await serve(plane, new)
            await plane.retire(old)
            assert slow.done(), "retired only once its request was answered"
            assert await slow == (200, b"slower")
            assert [each.labels["dev.mcpfleet.revision"] for each in world.containers()] == [new.name]
            assert "stopping\n" in await plane.logs(SERVICE)
            assert (await get(plane, "/"))[0] == 200

    world.run(scenario)


def test_a_revision_of_a_dead_process_can_be_retired_and_a_service_removed(world):
    async def scenario():
        revision = python(SERVER)
        async with world.plane() as plane:
            await serve(plane, revision)
        async with world.plane() as plane:
            await plane.retire(revision)
            assert world.containers() == []
            await serve(plane, revision)
            await plane.remove(SERVICE)
            assert world.containers() == []
            assert world.store.list("address") == []
        assert world.networks() == [f"mcpfleet-{world.cloud_id}"], "the gateway's own"

    world.run(scenario)


def test_a_program_that_ignores_sigterm_is_not_waited_for(world):
    code = "import http.server; http.server.HTTPServer(('', 8080), None).serve_forever()"

    async def scenario():
        async with world.plane() as plane:
            revision = python(code)
            await serve(plane, revision)
            async with asyncio.timeout(8):  # less than the ten seconds between SIGTERM and SIGKILL
                await plane.remove(SERVICE)

    world.run(scenario)


def test_removing_a_cloud_leaves_nothing_in_docker(world):
    async def scenario():
        async with world.plane() as plane:
            await serve(plane, python(SERVER))
            removed = await plane.destroy_all()
            kinds = [line.split()[0] for line in removed]
            assert kinds == ["container", "container", "network", "network"], "the service's and the gateway's"
        label = {"label": f"dev.mcpfleet.cloud={world.cloud_id}"}
        assert world.docker.containers.list(all=True, filters=label, ignore_removed=True) == []
        assert world.docker.networks.list(filters=label) == []
        assert world.docker.volumes.list(filters=label) == []

    world.run(scenario)
