"""Instances with several containers, volumes and secrets in Docker, as a program in them sees them."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from mcpfleet_local_cloud.data_plane.contract import (
    BucketFolder,
    Container,
    EmptyDir,
    Mount,
    Probe,
    RolloutError,
    SecretFile,
    SecretFiles,
    SecretRef,
    Volume,
)
from tests.integration.planes import IMAGE, QUICK, SERVICE, a_world, attempts, get, python, serve

pytestmark = pytest.mark.integration

# Answers GET /sh?COMMAND with what the shell says, which is all that these tests need of a program.
SHELL = """
import http.server, os, signal, subprocess, sys, time, urllib.parse, urllib.request
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_GET(self):
        command = urllib.parse.unquote(self.path.partition("?")[2])
        if self.path.startswith("/other"):
            where = "http://localhost:9000/sh?" + self.path.partition("?")[2]
            try: body = urllib.request.urlopen(where).read()
            except OSError as broken: body = str(broken).encode()
            self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers()
            self.wfile.write(body)
            return
        if command == "die": os._exit(7)
        done = subprocess.run(["sh", "-c", command], capture_output=True)
        body = done.stdout + done.stderr
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
def stop(*_): print("asked to stop", flush=True); os._exit(0)
signal.signal(signal.SIGTERM, stop)
time.sleep(float(os.environ.get("WAIT", "0")))
print("serving", flush=True)
port = int(os.environ.get("LISTEN") or os.environ["PORT"])
http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler).serve_forever()
"""
SECRET = "projects/p/secrets/db"


class Vault:
    """A test's secrets and buckets; missing ones are refused."""

    def __init__(self, folder: Path):
        self.values = {}
        self.root = folder

    def check(self, revision):
        pass

    def secret(self, ref, account):
        try:
            return self.values[ref.secret, ref.version]
        except KeyError:
            raise RolloutError(f"Secret {ref.secret}/versions/{ref.version} was not found") from None

    def folder(self, bucket):
        return self.root / bucket


@pytest.fixture
def world(tmp_path):
    with a_world(tmp_path) as world:
        world.vault = Vault(tmp_path / "buckets")
        yield world


def sidecar(name, code=SHELL, port=9000, **changes):
    env = (("LISTEN", str(port)), *changes.pop("env", ()))
    probe = changes.pop("probe", Probe(port=port, timeout=2, period=2, failure_threshold=10))
    return Container(
        name=name,
        image=IMAGE,
        command=("python3", "-c"),
        args=(code,),
        env=env,
        startup_probe=probe,
        **{"memory_bytes": 64 * 2**20, "cpu": 0.5, **changes},
    )


def revision(*sidecars, **changes):
    probe = replace(QUICK, failure_threshold=10)
    return python(SHELL, *sidecars, **{"container": "main", "startup_probe": probe, **changes})


async def shell(plane, command):
    return await _ask(plane, "/sh", command)


async def beside(plane, command):
    """Return the output of a shell in the sidecar, requested by the ingress container on localhost."""
    return await _ask(plane, "/other", command)


async def _ask(plane, path, command):
    status, body = await get(plane, f"{path}?{quote(command)}")
    assert status == 200
    return body.decode()


def test_containers_of_an_instance_share_localhost_and_nothing_else(world):
    async def scenario():
        async with world.plane() as plane:
            await serve(plane, revision(sidecar("helper")))
            assert await beside(plane, "echo $LISTEN-$PORT-$K_SERVICE") == "9000--echo\n"
            assert await shell(plane, "echo $PORT") == "8080\n"
            limits = {
                item.attrs["Config"]["Labels"]["dev.mcpfleet.container"]: item.attrs["HostConfig"]["Memory"]
                for item in world.containers()
            }
            assert limits == {"0": 512 * 2**20, "1": 64 * 2**20}
            await shell(plane, "touch /tmp/mine")
            assert (await beside(plane, "ls /tmp")).strip() == ""
            log = await plane.logs(SERVICE)
            assert "[main] serving\n" in log
            assert "[helper] serving\n" in log

    world.run(scenario)


def test_a_container_starts_after_the_startup_probes_of_its_dependencies_pass(world):
    # The main container exits at once where the sidecar does not answer yet.
    code = "import urllib.request as r; print(r.urlopen('http://localhost:9000/sh?true'))\n" + SHELL

    async def scenario():
        async with world.plane() as plane:
            made = revision(sidecar("helper", env=(("WAIT", "1.5"),)), depends_on=("helper",), args=(code,))
            await serve(plane, made)
            assert await shell(plane, "echo up") == "up\n"

    world.run(scenario)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (sidecar("helper", code="import sys; print('no token', flush=True); sys.exit(3)"), "Container called exit(3)."),
        (
            sidecar("helper", code="import time; time.sleep(99)", probe=replace(QUICK, port=9000)),
            "failed the configured startup probe",
        ),
    ],
    ids=["exits", "does not listen"],
)
def test_a_sidecar_that_cannot_start_fails_the_revision_with_its_name_and_reason(world, broken, said):
    async def scenario():
        async with world.plane() as plane:
            plane.address(SERVICE)
            with pytest.raises(RolloutError) as refused:
                await plane.start(revision(broken))
            assert said in str(refused.value)
            assert "The container is 'helper'." in str(refused.value)
            assert world.containers() == []

    world.run(scenario)


def test_an_instance_whose_sidecar_exits_is_replaced(world):
    async def scenario():
        async with world.plane() as plane:
            await serve(plane, revision(sidecar("helper")))
            before = await shell(plane, "hostname")
            await beside(plane, "die")
            async for _ in attempts():
                status, body = await get(plane, "/sh?hostname")
                if status == 200 and body.decode() != before:
                    break
            async for _ in attempts():
                if len(world.containers()) == 2:  # the old instance's are removed meanwhile
                    break
            assert "Container called exit(7)." in await plane.logs(SERVICE)

    world.run(scenario)


def test_every_container_of_an_instance_gets_sigterm(world):
    async def scenario():
        async with world.plane() as plane:
            made = revision(sidecar("helper"))
            await serve(plane, made)
            # Nothing probes the sidecar: it may not have come to where it listens for the signal.
            async for _ in attempts():
                if (await get(plane, f"/other?{quote('echo here')}"))[0] == 200:
                    break
            await plane.retire(made)
            log = await plane.logs(SERVICE)
            assert "[main] asked to stop\n" in log
            assert "[helper] asked to stop\n" in log
            assert world.containers() == []

    world.run(scenario)


def test_a_restarted_cloud_takes_over_complete_instances_and_removes_incomplete_ones(world):
    made = revision(sidecar("helper"), volumes=(Volume(name="m", source=EmptyDir(size_bytes=2**20)),))

    async def first():
        async with world.plane() as plane:
            await serve(plane, made)

    async def second():
        before = {item.id for item in world.containers()}
        async with world.plane() as plane:
            await serve(plane, made)
            assert {item.id for item in world.containers()} == before
            assert await beside(plane, "echo here") == "here\n"

    async def third():
        before = {item.id for item in world.containers()}
        next(item for item in world.containers() if item.name.endswith("helper")).remove(force=True)
        async with world.plane() as plane:
            await serve(plane, made)
            assert await beside(plane, "echo here") == "here\n"
            assert not {item.id for item in world.containers()} & before
            assert len(world.volumes()) == 1
            await plane.destroy_all()
            assert world.docker.volumes.list(filters={"label": f"dev.mcpfleet.cloud={world.cloud_id}"}) == []

    for scenario in (first, second, third):
        world.run(scenario)
    assert world.docker.volumes.list(filters={"label": f"dev.mcpfleet.cloud={world.cloud_id}"}) == []


def test_a_volume_is_shared_limited_in_memory_and_removed_with_its_instance(world):
    mount = (Mount(volume="scratch", path="/scratch"), Mount(volume="disk", path="/disk"))
    volume = Volume(name="scratch", source=EmptyDir(size_bytes=2 * 2**20))
    disk = Volume(name="disk", source=EmptyDir(size_bytes=10 * 2**30, on_disk=True))

    async def scenario():
        async with world.plane() as plane:
            made = revision(sidecar("helper", mounts=mount), mounts=mount, volumes=(volume, disk))
            await serve(plane, made)
            await shell(plane, "echo hello > /scratch/file")
            assert await beside(plane, "cat /scratch/file") == "hello\n"
            assert "tmpfs" in await shell(plane, "stat -f -c %T /scratch")
            assert "No space left" in await shell(plane, "head -c 3000000 /dev/zero > /scratch/big")
            assert "tmpfs" not in await shell(plane, "stat -f -c %T /disk")
            assert await shell(plane, "head -c 3000000 /dev/zero > /disk/big; stat -c %a /disk") == "1777\n"
            assert await beside(plane, "stat -c %s /disk/big") == "3000000\n"
            await plane.retire(made)
        assert world.volumes() == []

    world.run(scenario)


def test_a_secret_is_a_variable_and_a_file_and_the_file_follows_the_latest_version(world):
    world.vault.values = {(SECRET, "1"): b"swordfish", (SECRET, "latest"): b"swordfish"}
    files = (
        SecretFile(path="pinned", version="1", mode=0o444),
        SecretFile(path="now/token", version="latest", mode=0o400),
    )
    made = revision(
        secret_env=(("DB", SecretRef(secret=SECRET, version="1")),),
        mounts=(Mount(volume="s", path="/secrets"),),
        volumes=(Volume(name="s", source=SecretFiles(secret=SECRET, files=files)),),
    )

    async def scenario():
        async with world.plane(sources=world.vault) as plane:
            await serve(plane, made)
            assert await shell(plane, "echo $DB") == "swordfish\n"
            assert await shell(plane, "cat /secrets/pinned /secrets/now/token") == "swordfishswordfish"
            assert (await shell(plane, "stat -c %a /secrets/pinned /secrets/now/token")).split() == ["444", "400"]
            assert "Read-only" in await shell(plane, "touch /secrets/x")
            world.vault.values[SECRET, "latest"] = b"newer"
            plane.refresh(SECRET)
            assert await shell(plane, "cat /secrets/pinned /secrets/now/token") == "swordfishnewer"
            await plane.retire(made)
            assert "swordfish" not in await plane.logs(SERVICE)
        assert list((world.settings.state / "mounts").iterdir()) == []
        assert b"swordfish" not in (world.settings.state / "cloud.db").read_bytes()

    world.run(scenario)


def test_a_deleted_secret_prevents_an_instance_from_starting(world):
    made = revision(secret_env=(("DB", SecretRef(secret=SECRET, version="1")),))

    async def scenario():
        async with world.plane(sources=world.vault) as plane:
            plane.address(SERVICE)
            with pytest.raises(RolloutError, match="Secret projects/p/secrets/db/versions/1 was not found"):
                await plane.start(made)
            assert world.containers() == []

    world.run(scenario)


def test_a_bucket_is_mounted_writable_for_every_user_unless_it_is_read_only(world):
    (world.vault.root / "data").mkdir(parents=True)
    (world.vault.root / "data" / "in.txt").write_text("from outside")
    mounts = (Mount(volume="rw", path="/data"), Mount(volume="ro", path="/frozen"))
    volumes = (
        Volume(name="rw", source=BucketFolder(bucket="data")),
        Volume(name="ro", source=BucketFolder(bucket="data", read_only=True)),
    )

    async def scenario():
        async with world.plane(sources=world.vault) as plane:
            await serve(plane, revision(mounts=mounts, volumes=volumes))
            assert await shell(plane, "cat /data/in.txt") == "from outside"
            await shell(plane, "echo made > /data/out.txt")
            assert await shell(plane, "cat /frozen/out.txt") == "made\n"
            assert "Read-only" in await shell(plane, "touch /frozen/x")
            assert (world.vault.root / "data" / "out.txt").read_text() == "made\n"

    world.run(scenario)


def test_an_instance_that_is_not_ready_gets_no_requests_until_it_is(world):
    probe = Probe(port=8080, http_path="/sh?test%20-e%20/tmp/ready%20", timeout=1, period=1, failure_threshold=1)
    code = SHELL.replace("self.send_response(200)", "self.send_response(200 if not done.returncode else 500)")

    async def scenario():
        async with world.plane() as plane:
            made = revision(readiness_probe=probe, max_instances=1, concurrency=5, args=(code,))
            await serve(plane, made)
            container = world.containers()[0]
            pool = next(iter(plane._running.values())).pool  # the only one who knows without a request
            async for _ in attempts():
                if not pool._slots[0].is_ready:
                    break
            waiting = asyncio.create_task(get(plane, "/sh?echo%20served"))
            await asyncio.sleep(0.3)
            assert not waiting.done()
            container.exec_run(["touch", "/tmp/ready"])  # noqa: S108 - in the container
            assert await waiting == (200, b"served\n")

    world.run(scenario)


def test_an_affinity_cookie_routes_to_the_same_instance(world):
    async def scenario():
        async with world.plane() as plane:
            await serve(plane, revision(min_instances=2, max_instances=2, session_affinity=True))
            slots = next(iter(plane._running.values())).pool._slots
            names = {}
            for slot in slots:  # each of them answers where the other is full
                others = [item for item in slots if item is not slot]
                for one in others:
                    one.active_requests += 80
                lease = await plane.lease(SERVICE)
                names[lease.affinity] = slot.instance.main_status.id
                lease.release()
                for one in others:
                    one.active_requests -= 80
            assert len(names) == 2
            for affinity, container in names.items():
                lease = await plane.lease(SERVICE, affinity)
                assert lease._slot.instance.main_status.id == container
                lease.release()
            assert (await plane.lease(SERVICE, "gone")).affinity in names

    world.run(scenario)


def test_a_revision_without_health_checks_serves_as_soon_as_it_runs(world):
    made = revision(health_checked=False, env=(("WAIT", "1.0"),))

    async def scenario():
        async with world.plane() as plane:
            await serve(plane, made)
            assert (await get(plane, "/sh?true"))[0] == 503
            async for _ in attempts():
                if (await get(plane, "/sh?true"))[0] == 200:
                    break

    world.run(scenario)


def test_docker_inspect_shows_no_path_of_a_secrets_file(world):
    world.vault.values = {(SECRET, "1"): b"swordfish"}
    made = revision(
        mounts=(Mount(volume="s", path="/secrets"),),
        volumes=(
            Volume(name="s", source=SecretFiles(secret=SECRET, files=(SecretFile(path="t", version="1", mode=0o444),))),
        ),
    )

    async def scenario():
        async with world.plane(sources=world.vault) as plane:
            await serve(plane, made)
            assert "swordfish" not in json.dumps(world.containers()[0].attrs)

    world.run(scenario)
