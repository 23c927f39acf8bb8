"""Cloud Build and Cloud Logging over their APIs: what they do, refuse and keep."""

import base64
import io
import tarfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcpfleet_local_cloud.rest.errors import GoogleError
from mcpfleet_local_cloud.services.cloudbuild.docker import parse_command
from mcpfleet_local_cloud.services.cloudbuild.worker import StepError

BUCKET = "acme-source"
PARENT = "/cloudbuild/v1/projects/mcpfleet-local/locations/europe-west1"


def ended(api, build_id):
    for _ in range(5000):
        build = api.call("GET", f"{PARENT}/builds/{build_id}").json()
        if build["status"] not in ("QUEUED", "WORKING"):
            return build
    pytest.fail("the build does not end")


def run(api, build):
    answer = api.call("POST", f"{PARENT}/builds", build)
    assert answer.status_code == 200, answer.text
    return ended(api, answer.json()["metadata"]["build"]["id"])


def upload(api, content, name="s.tar.gz"):
    path = f"/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name}"
    return api.client.post(path, content=content, headers=api.headers())


def archive(*entries):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for entry, text in entries:
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))
    return content.getvalue()


# --- the API ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"options": {}}, 400, "if 'build.service_account' is specified, the build must either (a) specify"),
        ({"options": {"logging": "GCS_ONLY"}}, 400, "use either CLOUD_LOGGING_ONLY / NONE logging options"),
        ({"options": {"logging": "LOUD"}}, 400, "Invalid value at 'build.options.logging'"),
        ({"options": {"logging": "NONE", "machineType": "E2_TINY"}}, 400, "build.options.machine_type"),
        ({"options": {"logging": "NONE", "pool": {"name": "p"}}}, 501, "build.options.pool"),
        ({"options": {"logging": "NONE", "diskSizeGb": "100"}}, 501, "build.options.diskSizeGb"),
        ({"steps": []}, 400, "no build steps provided"),
        ({"steps": [{}]}, 400, "build.steps[0].name is required"),
        (
            {"steps": [{"name": "gcr.io/k8s-skaffold/pack", "args": ["build"]}]},
            501,
            "buildpacks (gcr.io/k8s-skaffold/pack)",
        ),
        ({"steps": [{"name": "ubuntu"}]}, 501, "steps run gcr.io/cloud-builders/docker here, not ubuntu"),
        ({"steps": [{"args": ["run", "x"]}]}, 501, "docker can only build, tag and pull here"),
        ({"steps": [{"args": ["build", "/etc"]}]}, 501, "/etc is outside of the workspace"),
        ({"steps": [{"args": ["build", "--file=../x", "."]}]}, 501, "../x is outside of the workspace"),
        ({"steps": [{"args": ["build", "--output=/x", "."]}]}, 501, "--output would access this machine"),
        ({"steps": [{"args": ["build", "--network=host", "."]}]}, 501, "--network=host would access this machine"),
        ({"steps": [{"args": ["build", "--network", "host", "."]}]}, 501, "--network=host would access this machine"),
        ({"steps": [{"args": ["build", "--network=container:x", "."]}]}, 501, "would access this machine"),
        (
            {"steps": [{"args": ["build", "--add-host=a:127.0.0.1", "."]}]},
            501,
            "--add-host would access this machine",
        ),
        ({"steps": [{"args": ["build", "--privileged", "."]}]}, 501, "--privileged would access this machine"),
        ({"steps": [{"args": ["build", "--ssh=default", "."]}]}, 501, "--ssh would access this machine"),
        ({"steps": [{"args": ["build", "--allow", "network.host", "."]}]}, 501, "--allow would access this machine"),
        ({"steps": [{"args": ["build", "-v=/:/x", "."]}]}, 501, "-v would access this machine"),
        ({"steps": [{"args": ["build", "--iidfile=x", "."]}]}, 501, "--iidfile would access this machine"),
        ({"steps": [{"args": ["build", "--build-arg=HOME", "."]}]}, 501, "would read a variable of this machine"),
        ({"steps": [{"args": ["build", "--build-arg", "HOME", "."]}]}, 501, "would read a variable of this machine"),
        ({"steps": [{"args": ["build", "-f", "../x", "."]}]}, 501, "../x is outside of the workspace"),
        ({"steps": [{"args": ["build", "--file", "/etc/x", "."]}]}, 501, "/etc/x is outside of the workspace"),
        ({"steps": [{"args": ["build", "-"]}]}, 501, "- is no folder of the workspace"),
        ({"steps": [{"args": ["build", "http://169.254.169.254/"]}]}, 501, "is no folder of the workspace"),
        ({"steps": [{"args": ["build", "git@acme.dev:x"]}]}, 501, "is no folder of the workspace"),
        ({"steps": [{"args": ["build", ".", "more"]}]}, 501, "docker build takes one folder of the workspace"),
        ({"steps": [{"args": ["build", "--tag"]}]}, 501, "--tag needs a value"),
        ({"steps": [{"args": ["build", "--tag=mcpfleet/base:1", "."]}]}, 501, "mcpfleet/base:1 is not in build.images"),
        ({"steps": [{"args": ["tag", "private:1", "127.0.0.1:9/a:1"]}]}, 501, "private:1 is not in build.images"),
        ({"steps": [{"args": ["pull", "--all-tags", "x"]}]}, 501, "take only image names here"),
        ({"steps": [{"args": ["build", "."], "dir": "../x"}]}, 501, "../x is outside of the workspace"),
        ({"steps": [{"args": ["build", "."], "env": ["BUILDKIT_HOST=tcp://x"]}]}, 501, "only DOCKER_"),
        ({"images": ["docker.io/library/python"]}, 501, "is not in a registry on this machine"),
        ({"steps": [{"args": ["build", "--secret=id=a,src=/x", "."]}]}, 501, "would access this machine"),
        (
            {"steps": [{"args": ["build", "$HOME"]}]},
            400,
            "key in the template 'HOME' is not a valid built-in substitution",
        ),
        ({"steps": [{"args": ["build", "."], "env": ["PATH=/x"]}]}, 501, "only DOCKER_BUILDKIT"),
        ({"steps": [{"args": ["build", "."], "entrypoint": "bash"}]}, 501, "build.steps[0].entrypoint"),
        ({"steps": [{"args": ["build", "."], "color": "red"}]}, 400, 'Unknown name "color"'),
        ({"color": "red"}, 400, 'Unknown name "color"'),
        ({"serviceAccount": ""}, 501, "set the account"),
        ({"serviceAccount": "a@b"}, 400, "invalid build.service_account"),
        ({"serviceAccount": "projects/mcpfleet-local/serviceAccounts/no@one.test"}, 404, "Unknown service account"),
        ({"timeout": "1 hour"}, 400, "Invalid value at 'build.timeout'"),
        ({"timeout": "90000s"}, 400, "invalid build.timeout"),
        ({"images": ["UPPER/case"]}, 400, "could not parse reference"),
        ({"substitutions": {"_A": "1"}}, 501, "build.substitutions"),
        ({"source": {"repoSource": {}}}, 501, "build.source.repoSource"),
        ({"source": {"storageSource": {"bucket": "b"}}}, 400, "build.source.storageSource.object is required"),
        ({"source": {"storageSource": {"bucket": "b", "object": "x.txt"}}}, 400, "must be a .tar.gz"),
        ({"source": {"storageSource": {"bucket": "b", "object": "x.zip"}}}, 501, "only .tar.gz archives"),
        ({"logsBucket": "gs://b"}, 501, "build.logsBucket"),
    ],
)
def test_unsupported_and_invalid_builds_are_refused_by_name(api, build, change, status, message):
    steps = (
        [{**build["steps"][0], **step} if step else {} for step in change.pop("steps", [])]
        if change.get("steps")
        else None
    )
    answer = api.call("POST", f"{PARENT}/builds", {**build, **change, **({"steps": steps} if steps else {})})
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]["message"]
    assert api.cloud.builds.list("projects/mcpfleet-local/locations/europe-west1") == []


def test_without_the_api_every_method_is_refused(running):
    answer = running.call("POST", f"{PARENT}/builds", {})
    assert answer.status_code == 403
    assert answer.json()["error"]["details"][0]["reason"] == "SERVICE_DISABLED"


def test_a_location_that_google_does_not_have_is_not_found(api, build):
    assert api.call("POST", PARENT.replace("europe-west1", "mars-north1") + "/builds", build).status_code == 404


def test_substitutions_are_replaced_and_two_dollars_are_one(api, worker, build):
    build["steps"][0]["args"] = ["build", "--label=p=$PROJECT_ID-${LOCATION}", "--label=d=$$5", "."]
    done = run(api, build)
    assert worker.steps[0].arguments == ["build", "--label=p=mcpfleet-local-europe-west1", "--label=d=$5", "."]
    assert done["status"] == "SUCCESS"


def test_a_build_can_be_read_listed_and_polled_as_an_operation(api, build):
    operation = api.call("POST", f"{PARENT}/builds", build).json()
    build_id = operation["metadata"]["build"]["id"]
    assert base64.urlsafe_b64decode(operation["name"].rpartition("/")[2] + "==").decode() == build_id
    assert "done" not in operation
    done = ended(api, build_id)
    assert [item["id"] for item in api.call("GET", f"{PARENT}/builds").json()["builds"]] == [build_id]
    read = api.call("GET", f"/cloudbuild/v1/{operation['name']}").json()
    assert (read["done"], read["response"]["status"]) == (True, "SUCCESS")
    assert done["steps"][0]["status"] == "SUCCESS"
    refused = api.call("POST", f"{PARENT}/builds/{build_id}:cancel", {})
    assert refused.json()["error"]["status"] == "FAILED_PRECONDITION"
    assert api.call("GET", f"{PARENT}/builds/none").status_code == 404
    assert api.call("GET", f"{PARENT}/operations/%21%21").status_code == 404


def test_a_build_that_takes_too_long_times_out(api, worker, build):
    worker.held = True
    done = run(api, {**build, "timeout": "0.05s"})
    assert done["status"] == "TIMEOUT"
    assert done["steps"][0]["status"] == "TIMEOUT"


def test_a_build_interrupted_by_the_clouds_shutdown_is_an_internal_error(api, start, worker, build):
    worker.held = True
    build_id = api.call("POST", f"{PARENT}/builds", build).json()["metadata"]["build"]["id"]
    name = f"projects/mcpfleet-local/locations/europe-west1/builds/{build_id}"
    record = api.cloud.store.get("build", name)
    api.call("POST", f"{PARENT}/builds/{build_id}:cancel", {})
    api.cloud.store.put("build", name, {**record, "status": "WORKING"})
    api.cloud.builds.recover()
    assert api.cloud.builds.get(name)["status"] == "INTERNAL_ERROR"


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"no archive", "failed to unpack"),
        (archive((tarfile.TarInfo("../out"), b"x")), "failed to unpack"),
        (archive((tarfile.TarInfo("/abs/../../out"), b"x")), "failed to unpack"),
    ],
    ids=["no archive", "relative path", "absolute path"],  # an archive's own bytes have the time in them
)
def test_an_archive_with_paths_outside_its_folder_is_refused(api, worker, build, content, detail):
    assert upload(api, content).status_code == 200
    done = run(api, {**build, "source": {"storageSource": {"bucket": BUCKET, "object": "s.tar.gz"}}})
    assert done["failureInfo"]["type"] == "FETCH_SOURCE_FAILED"
    assert detail in done["failureInfo"]["detail"]
    assert worker.steps == []


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE])
def test_a_link_in_an_archive_exposes_no_outside_file(api, worker, build, tmp_path, kind):
    link, inner = tarfile.TarInfo("link"), tarfile.TarInfo("link/out")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
    inner.type, inner.linkname = kind, "x"
    content = b"x" if kind == tarfile.REGTYPE else b""
    assert upload(api, archive((link, b""), (inner, content))).status_code == 200
    done = run(api, {**build, "source": {"storageSource": {"bucket": BUCKET, "object": "s.tar.gz"}}})
    assert done["status"] == "FAILURE"
    assert not (tmp_path / "out").is_symlink()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "step"),
    [
        ("source", ["build", "source"], {}),
        ("source/Dockerfile", ["build", "source"], {}),
        ("source/.dockerignore", ["build", "source"], {}),
        ("Dockerfile", ["build", "--file=Dockerfile", "source"], {}),
        ("Dockerfile.dockerignore", ["build", "-f", "Dockerfile", "source"], {}),
        ("here", ["build", "."], {"dir": "here"}),
    ],
)
@pytest.mark.parametrize("ring", [False, True])
def test_docker_itself_follows_no_link_out_of_the_workspace(api, worker, build, tmp_path, name, arguments, step, ring):
    link, other = tarfile.TarInfo(name), tarfile.TarInfo("other")
    link.type, link.linkname = tarfile.SYMTYPE, name.rpartition("/")[2] if ring else str(tmp_path)
    assert upload(api, archive((link, b""), (other, b""))).status_code == 200
    steps = [{**build["steps"][0], "args": arguments, **step}]
    source = {"storageSource": {"bucket": BUCKET, "object": "s.tar.gz"}}
    done = run(api, {**build, "steps": steps, "source": source})
    assert done["status"] == "FAILURE"
    assert "is a link out of the workspace" in done["failureInfo"]["detail"]
    assert worker.steps == []


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_pipes_and_devices_in_an_archive_are_not_created(api, worker, build, kind):
    entry = tarfile.TarInfo("x")
    entry.type = kind
    assert upload(api, archive((entry, b""))).status_code == 200
    done = run(api, {**build, "source": {"storageSource": {"bucket": BUCKET, "object": "s.tar.gz"}}})
    assert done["failureInfo"]["type"] == "FETCH_SOURCE_FAILED"


def test_builds_from_googles_guides_are_accepted(api, worker, build):
    image = "127.0.0.1:9/p/r/app:1"
    argument_lists = [
        ["build", "-t", image, "."],
        ["build", "--tag", image, "-f", "deploy/Dockerfile", "--build-arg", "A=b=c", "--target=x", "--no-cache", "."],
        ["pull", image],
        ["tag", image, "127.0.0.1:9/p/r/app"],
        ["build", f"--tag={image}", "--network=none", "--platform=linux/amd64", "--pull=true", "."],
    ]
    steps = [{**build["steps"][0], "args": arguments} for arguments in argument_lists]
    done = run(api, {**build, "steps": steps, "images": [image, "127.0.0.1:9/p/r/app:latest"]})
    assert done["status"] == "SUCCESS", done
    assert [list(step.arguments) for step in worker.steps] == argument_lists


WORDS = st.sampled_from(
    [
        *("build", "tag", "pull", ".", "source", "--", "-", "--tag=127.0.0.1:9/a:1", "--network", "--network=host"),
        *("host", "--build-arg=A", "--build-arg", "A=1", "--file", "/etc/passwd", "--file=../x", "--allow=all", "-fx"),
        *("-t", "-tx", "--secret", "id=a,src=/x", "--output=type=local,dest=/", "--iidfile=/x", "-H=tcp://x"),
        "--cache-to=type=local,dest=/x",
    ]
)


@given(st.lists(WORDS | st.text(max_size=6), max_size=5))
def test_accepted_arguments_reach_only_the_workspace(arguments):
    try:
        command = parse_command(arguments, "build.steps[0]")
    except GoogleError:
        return
    assert arguments[0] in ("build", "tag", "pull")
    flags = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
    assert not set(flags) & {
        "--secret",
        "--output",
        "--iidfile",
        "--cache-to",
        "--allow",
        "-H",
        "-fx",
        "-tx",
        "--",
        "-",
    }
    assert "--network=host" not in arguments
    assert not any(place.startswith(("/", "..", "-")) for place in command.paths_read)


# --- what a refusal leaves --------------------------------------------------------------------------------


def files_of(api):
    return [path for path in api.cloud.storage.objects._root.iterdir() if path.is_file()]


@pytest.mark.parametrize(
    ("query", "status"),
    [("name=a&ifGenerationMatch=7", 412), ("name=a/../b", 501), ("name=" + "a" * 2000, 400), ("name=b/c", 501)],
)
@pytest.mark.parametrize("kind", ["media", "resumable"])
def test_a_refused_upload_leaves_no_file(api, kind, query, status):
    assert upload(api, b"1", "b").status_code == 200
    path = f"/upload/storage/v1/b/{BUCKET}/o?uploadType={kind}&{query}"
    answer = api.client.post(path, content=b"{}", headers=api.headers())
    if answer.status_code == 200:
        answer = api.client.put(answer.headers["location"], content=b"1", headers=api.headers())
    assert answer.status_code == status
    assert files_of(api) == []


def test_a_cancelled_upload_leaves_no_file(api):
    path = f"/upload/storage/v1/b/{BUCKET}/o?uploadType=resumable&name=a"
    place = api.client.post(path, json={}, headers=api.headers()).headers["location"]
    headers = {**api.headers(), "content-range": "bytes 0-0/5"}
    assert api.client.put(place, content=b"1", headers=headers).status_code == 308
    assert len(files_of(api)) == 1
    assert api.client.delete(place, headers=api.headers()).status_code == 499
    assert files_of(api) == []
    assert api.client.put(place, content=b"1", headers=headers).status_code == 404


def test_an_upload_interrupted_by_a_shutdown_is_removed(api):
    objects = api.cloud.storage.objects
    objects.create_temporary_file()
    type(objects)(api.cloud.store, objects._root, lambda: 0.0)
    assert files_of(api) == []


@pytest.mark.parametrize(
    ("source", "detail"),
    [
        ({"bucket": "no-such", "object": "s.tgz"}, "The specified bucket does not exist"),
        ({"bucket": BUCKET, "object": "s.tgz"}, "No such object"),
        ({"bucket": BUCKET, "object": "there.tgz", "generation": "1"}, "No such object"),
    ],
)
def test_a_missing_source_fails_the_build(api, build, source, detail):
    upload(api, archive((tarfile.TarInfo("a"), b"x")), "there.tgz")
    done = run(api, {**build, "source": {"storageSource": source}})
    assert done["failureInfo"]["type"] == "FETCH_SOURCE_FAILED"
    assert detail in done["failureInfo"]["detail"]


def test_an_upload_with_an_unmet_precondition_is_refused_as_by_google(api):
    path = f"/upload/storage/v1/b/{BUCKET}/o?uploadType=resumable&name=a&ifGenerationMatch=0"
    assert upload(api, b"1", "a").status_code == 200
    answer = api.client.post(path, json={}, headers=api.headers())
    assert answer.status_code == 412


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(["source", "steps", "images", "serviceAccount", "timeout", "tags", "options", "x"])
STEPS = st.dictionaries(st.sampled_from(["id", "name", "args", "env", "dir", "waitFor"]), JSON, max_size=3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(FIELDS, JSON | st.lists(STEPS, max_size=2), max_size=4))
def test_any_json_gets_a_google_response(api, build, body):
    answer = api.call("POST", f"{PARENT}/builds", {**build, **body})
    assert answer.status_code in (200, 400, 403, 404, 501), answer.text
    assert "The local cloud failed" not in answer.text


# --- logs -------------------------------------------------------------------------------------------------


def listed(api, filter_, **extra):
    body = {"resourceNames": ["projects/mcpfleet-local"], "filter": filter_, **extra}
    return api.call("POST", "/logging/v2/entries:list", body)


def test_a_builds_log_is_read_in_pages_and_from_a_time(api, build, clock):
    build_id = run(api, build)["id"]
    filter_text = f'logName="projects/mcpfleet-local/logs/cloudbuild" AND resource.labels.build_id="{build_id}"'
    entries = listed(api, filter_text, pageSize=1000).json()["entries"]
    assert [entry["textPayload"] for entry in entries][-1] == "DONE"
    first = listed(api, filter_text, pageSize=2).json()
    rest = listed(api, filter_text, pageSize=1000, pageToken=first["nextPageToken"]).json()["entries"]
    assert first["entries"] + rest == entries
    assert (
        listed(api, f'{filter_text} AND timestamp>="{entries[0]["timestamp"]}"', pageSize=1000).json()["entries"]
        == entries
    )
    assert "entries" not in listed(api, f'{filter_text} AND timestamp>="2999-01-01T00:00:00Z"').json()
    assert listed(api, filter_text, orderBy="timestamp desc", pageSize=1).json()["entries"] == entries[-1:]
    assert (
        api.call(
            "POST", "/logging/v2/entries:list", {"resourceNames": ["projects/mcpfleet-local"]}, as_="ada@mcpfleet.test"
        ).status_code
        == 403
    )


@pytest.mark.parametrize("begins", ["ERROR: ", "DONE", "TIMEOUT", "CANCELLED", "é", "x\n" * 1000, "x"])
def test_a_builds_log_is_limited_and_its_truncation_reported(api, build, worker, begins):
    worker.says = [begins + "x" * 100_000] * 200
    worker.failure = StepError("it broke " + "y" * 10**6)
    build_id = run(api, build)
    log = Path(urlsplit(build_id["logUrl"]).path)
    assert log.stat().st_size < 9 * 2**20
    *_, left_out, last = log.read_text().splitlines()
    assert "is left out" in left_out
    assert "ERROR: build step 0" in last


@pytest.mark.parametrize(
    ("filter_", "status"),
    [
        ("", 501),
        ("severity>=ERROR", 501),
        ('resource.type="gce_instance" AND resource.labels.build_id="x"', 501),
        ('resource.labels.build_id="../../x"', 200),
        ('resource.labels.build_id="x" AND timestamp>="yesterday"', 400),
        ('resource.labels.build_id="x" OR a="b"', 501),
    ],
)
def test_an_invalid_filter_is_refused(api, filter_, status):
    assert listed(api, filter_).status_code == status


@given(st.text(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_filter_gets_a_google_response(api, filter_):
    assert listed(api, filter_).status_code in (200, 400, 501)


@pytest.mark.parametrize("failure", [None, StepError("it broke")])
def test_a_builds_containers_are_removed_before_it_is_reported_as_finished(api, worker, build, failure):
    """Whoever deploys the image then fetches it under the same names, which the removal would take away."""
    states = []

    async def remove(_images):
        states.extend(record["status"] for _, record in api.cloud.store.list("build"))

    worker.remove, worker.failure = remove, failure
    run(api, build)
    assert states == ["WORKING"]


def test_a_reset_removes_builds_and_their_logs(api, build):
    build_id = run(api, build)["id"]
    api.client.portal.call(api.cloud.reset)
    assert api.cloud.store.list("build") == []
    assert api.cloud.entries.list_entries(api.project, build_id) == []
