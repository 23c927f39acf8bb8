"""The provider of Cloud Build images on the local cloud: from a source to a digest, and what can go wrong."""

from pathlib import Path

import pytest
from pulumi.runtime.rpc import UNKNOWN

from mcpfleet_local_cloud.services.cloudbuild.worker import StepError
from tests.unit.local_cloud.services.cloudbuild.conftest import ADA, BUCKET, DIGEST, PARENT, RefusedError


def test_an_image_is_built_from_the_upload_and_returned_by_digest(engine, worker, news):
    inputs, failures = engine.check(news)
    assert failures == []
    created = engine.create(inputs)
    assert created["digest"] == DIGEST
    assert created["ref"] == f"{news['image']}@{DIGEST}"
    (step,) = worker.steps
    assert step.files == {"Dockerfile": "FROM base\nCOPY . .", "source/server.py": "print('sunny')"}
    assert step.arguments == [
        "build",
        f"--tag={news['image']}:latest",
        "--file=Dockerfile",
        "--platform=linux/amd64",
        "--build-arg=BASE_IMAGE=base",
        "--build-arg=PRICE=$PRICE is $$5",
        "--label=a=b",
        "source",
    ]
    assert step.environment == (("DOCKER_BUILDKIT", "1"),)
    ((image_name, pusher),) = worker.pushed
    assert (image_name, pusher) == (f"{news['image']}:latest", news["serviceAccount"])
    assert worker.forgotten == [image_name]
    message = "\n".join(engine.said)
    assert "building the weather" in message
    assert 'Step #0 - "image": ' not in message, "there is one step, and it needs no name on each line"
    assert message.endswith("DONE")


def test_the_state_has_no_token_and_no_key(engine, news):
    created = engine.create(engine.check(news)[0])
    assert "ya29" not in str(created)
    assert "eyJ" not in str(created)
    assert set(created) == {*news, "contentHash", "digest", "ref", "build", "logUrl"}


def test_the_same_content_in_another_folder_builds_nothing(engine, worker, news, tmp_path):
    created = engine.create(engine.check(news)[0])
    other_folder = tmp_path / "elsewhere"
    other_folder.mkdir()
    (other_folder / "server.py").write_text("print('sunny')")
    checked, _ = engine.check({**news, "context": str(other_folder)})
    assert engine.diff(created, checked) == ([], [])
    changed = engine.update(created, {**checked, "timeout": 900})
    assert (changed["digest"], changed["timeout"]) == (DIGEST, 900)
    assert len(worker.steps) == 1


def test_changed_content_is_built_once_and_another_name_is_another_image(engine, worker, news):
    created = engine.create(engine.check(news)[0])
    (Path(news["context"]) / "server.py").write_text("print('rainy')")
    inputs, _ = engine.check(news)
    assert engine.diff(created, inputs) == (["contentHash"], [])
    planned = engine.update(created, inputs, preview=True)
    assert planned["digest"] == UNKNOWN
    assert len(worker.steps) == 1, "a preview builds nothing"
    engine.update(created, inputs)
    assert len(worker.steps) == 2
    assert engine.diff(created, {**inputs, "image": "127.0.0.1:9/other"})[1] == ["image"]


def test_an_image_of_another_platform_is_built_again(engine, worker, news):
    created = engine.create(engine.check(news)[0])
    inputs, failures = engine.check({**news, "platform": "native"})
    assert (failures, engine.diff(created, inputs)) == ([], (["platform"], []))
    engine.update(created, inputs)
    assert [argument for argument in worker.steps[1].arguments if argument.startswith("--platform")] == []


def test_a_preview_needs_no_cloud(engine, news):
    checked, _ = engine.check(news)
    assert engine.create(checked, preview=True)["digest"] == UNKNOWN
    unknown, failures = engine.check({**news, "bucket": UNKNOWN, "image": UNKNOWN, "serviceAccount": UNKNOWN})
    assert failures == []
    assert unknown["contentHash"] == checked["contentHash"]
    assert engine.create(unknown, preview=True)["digest"] == UNKNOWN
    assert engine.requests == []


def test_an_uploaded_source_is_not_uploaded_again(engine, news):
    inputs, _ = engine.check(news)
    engine.create(inputs)
    engine.requests.clear()
    engine.create(inputs)
    assert not any(request.startswith("PUT /upload/") for request in engine.requests)
    assert len(engine.running.cloud.builds.list("projects/mcpfleet-local/locations/europe-west1")) == 2


def test_a_folder_that_changes_between_preview_and_build_is_not_built(engine, news):
    inputs, _ = engine.check(news)
    (Path(news["context"]) / "server.py").write_text("print('rainy')")
    with pytest.raises(RefusedError, match="has changed since the update was planned; run the update again"):
        engine.create(inputs)


def test_invalid_inputs_are_named(engine, news):
    del news["bucket"]
    assert engine.check({**news, "color": "red"})[1] == [
        ("bucket", "bucket is missing"),
        ("color", "mcpfleet-build:index:Image has no property color"),
    ]
    _, failures = engine.check({**news, "bucket": "b", "context": "no-such-folder"})
    assert failures == [("context", "there is no folder no-such-folder beside Pulumi.yaml; correct the path")]


def test_a_failed_build_is_one_message_with_step_output_log_and_next_step(engine, worker, news):
    worker.failure = StepError("docker build ended with status 7", 7)
    with pytest.raises(RefusedError) as refused:
        engine.create(engine.check(news)[0])
    message = str(refused.value)
    assert message.startswith(f"Cloud Build could not build {news['image']}:latest at step 'image': build step 0")
    assert "step exited with non-zero status: 7" in message
    assert "\n  building the weather" in message
    assert "The full log: file:///" in message
    assert "gcloud builds log " in message
    assert message.endswith("Correct what the log names, then run the update again.")
    assert "Traceback" not in message


def objects_of(api):
    return [name for name, _ in api.cloud.storage.objects.list(BUCKET)]


def test_only_the_source_of_the_failed_build_is_removed(engine, worker, news, api):
    inputs, _ = engine.check(news)
    worker.failure = StepError("docker build ended with status 7", 7)
    with pytest.raises(RefusedError):
        engine.create(inputs)
    assert objects_of(api) == []
    worker.failure = None
    engine.create(inputs)
    (remaining,) = objects_of(api)
    worker.failure = StepError("docker build ended with status 7", 7)
    with pytest.raises(RefusedError):
        engine.create(inputs)
    assert objects_of(api) == [remaining], "it was there before"


def test_a_cancelled_build_leaves_no_source(engine, worker, news, api):
    worker.held = True
    engine.stop_after = 3
    with pytest.raises(RefusedError, match="the update was stopped"):
        engine.create(engine.check(news)[0])
    assert objects_of(api) == []


def test_an_interrupted_upload_is_cancelled(engine, news, api, monkeypatch):
    monkeypatch.setattr("pulumi_mcpfleet.cloud_build.google._CHUNK", 256)
    engine.put_fails = True
    with pytest.raises(RefusedError, match="can't be uploaded"):
        engine.create(engine.check(news)[0])
    assert any(request.startswith("DELETE /upload/") for request in engine.requests)
    assert [path for path in api.cloud.storage.objects._root.iterdir() if path.is_file()] == []


def test_the_token_is_not_sent_to_another_host_named_by_a_response(engine, news):
    engine.elsewhere = "https://storage.evil.test"
    with pytest.raises(RefusedError):
        engine.create(engine.check(news)[0])
    assert engine.told_elsewhere
    assert not any("authorization" in headers for headers in engine.told_elsewhere)


def test_build_output_contains_no_terminal_commands(engine, worker, news):
    worker.failure = StepError("\x1b[2J✓ all checks passed", 7)
    worker.line = "\x1b[2J<{%fg 1%}>"
    with pytest.raises(RefusedError) as refused:
        engine.create(engine.check(news)[0])
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize(
    ("role", "advice"),
    [
        ("roles/storage.objectViewer", "roles/storage.objectViewer on gs://acme-source"),
        (None, "roles/artifactregistry.writer"),
    ],
)
def test_a_refused_build_account_is_retried_once_and_then_named(engine, worker, news, api, role, advice):
    inputs, _ = engine.check(news)
    if role:
        api.cloud.policies.set(f"projects/{api.project}/buckets/{BUCKET}", {"bindings": []})
    else:
        worker.push_failure = StepError("denied: no uploadArtifacts", denied=True)
    with pytest.raises(RefusedError) as refused:
        engine.create(inputs)
    assert f"Grant {api.email} {advice}" in str(refused.value)
    assert sum("trying once more in 30 s" in line for line in engine.said) == 1
    assert len(api.cloud.builds.list("projects/mcpfleet-local/locations/europe-west1")) == 2


def test_an_account_without_permission_to_log_builds_without_a_log(engine, news, api):
    policy = api.cloud.policies.get(f"projects/{api.project}")
    bindings = [binding for binding in policy["bindings"] if binding["role"] != "roles/logging.logWriter"]
    api.cloud.policies.set(f"projects/{api.project}", {"bindings": bindings})
    created = engine.create(engine.check(news)[0])
    build = api.call("GET", f"{PARENT}/builds/{created['build']}").json()
    assert "does not have permission to write logs to Cloud Logging" in build["warnings"][0]["text"]
    assert not any("building the weather" in line for line in engine.said)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ([], "can't be uploaded: Permission 'storage.objects.create' denied"),
        (["roles/storage.admin"], "whoever deploys needs roles/cloudbuild.builds.editor"),
        (
            ["roles/storage.admin", "roles/cloudbuild.builds.editor"],
            "mcpfleet-build@mcpfleet-local.iam.gserviceaccount.com; whoever deploys needs roles/iam.serviceAccountUser",
        ),
    ],
)
def test_a_missing_permission_of_the_deployer_is_named(engine, news, api, roles, message):
    for role in roles:
        api.grant(role, ADA)
    engine.email = "ada@mcpfleet.test"
    with pytest.raises(RefusedError) as refused:
        engine.create(engine.check(news)[0])
    assert message in str(refused.value)


def test_a_deployer_without_permission_to_read_logs_can_build(engine, news, api):
    for role in ("roles/storage.admin", "roles/cloudbuild.builds.editor", "roles/iam.serviceAccountUser"):
        api.grant(role, ADA)
    engine.email = "ada@mcpfleet.test"
    assert engine.create(engine.check(news)[0])["digest"] == DIGEST
    assert sum("you need roles/logging.viewer" in line for line in engine.said) == 1


def test_ctrl_c_cancels_the_build(engine, worker, news, api):
    worker.held = True
    engine.stop_after = 3
    with pytest.raises(RefusedError, match="the update was stopped, and with it build "):
        engine.create(engine.check(news)[0])
    (build,) = api.cloud.builds.list("projects/mcpfleet-local/locations/europe-west1")
    assert build["status"] == "CANCELLED"
    assert worker.ended_by_cancel


def test_ctrl_c_reports_a_build_that_could_not_be_cancelled(engine, worker, news, api):
    worker.held = True
    engine.stop_after, engine.away = 3, ":cancel"
    with pytest.raises(RefusedError) as refused:
        engine.create(engine.check(news)[0])
    (build,) = api.cloud.builds.list("projects/mcpfleet-local/locations/europe-west1")
    assert str(refused.value).startswith(f"the update was stopped; build {build['id']} of ")
    assert f"gcloud builds cancel {build['id']} --project mcpfleet-local --region europe-west1" in str(refused.value)


def test_a_missing_image_is_rebuilt_and_a_deleted_one_is_removed_from_the_registry(engine, news):
    created = engine.create(engine.check(news)[0])
    assert not engine.is_there(created), "nothing was really pushed"
    engine.delete(created)
    assert engine.requests[-1] == f"DELETE /v2/europe-west1/mcpfleet-local/mcpfleet/weather/manifests/{DIGEST}"
