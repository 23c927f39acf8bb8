"""docker-build:index:Image without a Docker: its inputs, its hash, its differences, its errors."""

import pytest
from pulumi.runtime.proto import provider_pb2 as pb

from mcpfleet_local_cloud.plugins.call import ProviderError
from mcpfleet_local_cloud.plugins.docker_build.builder import find_failed_step
from mcpfleet_local_cloud.plugins.docker_build.context import hash_context
from mcpfleet_local_cloud.plugins.docker_build.dockerfile import find_line, find_mistake
from mcpfleet_local_cloud.plugins.docker_build.registry import Login, parse_reference
from mcpfleet_local_cloud.plugins.values import UNKNOWN, from_struct, to_struct

IMAGE = "docker-build:index:Image"
DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def context(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY app /app\n")
    (tmp_path / "app").mkdir()
    (tmp_path / "app/main.py").write_text("print()\n")
    (tmp_path / ".dockerignore").write_text("*.log\n")
    return tmp_path


@pytest.fixture
def inputs(docker_engine, context):
    return docker_engine.checked(
        IMAGE,
        {
            "push": True,
            "tags": ["127.0.0.1:8470/r/p/fleet/app:latest"],
            "context": {"location": str(context)},
            "registries": [{"address": "127.0.0.1:8470", "username": "oauth2accesstoken", "password": "one"}],
        },
    )


@pytest.fixture
def state(inputs, context):
    return {**inputs, "contextHash": hash_context(str(context), str(context / "Dockerfile")), "digest": DIGEST}


def test_unchanged_inputs_are_no_update(docker_engine, inputs, state):
    assert docker_engine.changed(IMAGE, state, inputs) == []


def test_a_new_password_is_no_update_but_a_new_user_is(docker_engine, inputs, state):
    (login,) = inputs["registries"]
    assert docker_engine.changed(IMAGE, state, {**inputs, "registries": [{**login, "password": "two"}]}) == []
    changed = docker_engine.changed(IMAGE, state, {**inputs, "registries": [{**login, "username": "me"}]})
    assert changed == ["registries[0].username"]


@pytest.mark.parametrize(
    "edit",
    [
        lambda root: (root / "app/main.py").write_text("print(1)\n"),
        lambda root: (root / "app/main.py").rename(root / "app/other.py"),
        lambda root: (root / "app/main.py").chmod(0o755),
        lambda root: (root / "Dockerfile").write_text("FROM scratch\n"),
        lambda root: (root / "new").write_text(""),
        lambda root: (root / "link").symlink_to("app/main.py"),
    ],
)
def test_every_change_to_the_build_context_is_an_update(docker_engine, inputs, state, context, edit):
    edit(context)
    answer = docker_engine.diff(IMAGE, state, inputs)
    assert list(answer.detailedDiff) == ["contextHash"]
    assert not answer.replaces


def test_a_change_to_an_ignored_file_is_no_update(docker_engine, inputs, state, context):
    (context / "debug.log").write_text("noise")
    assert docker_engine.changed(IMAGE, state, inputs) == []


def test_a_dockerfiles_own_ignore_file_takes_precedence(context):
    (context / "Dockerfile.dockerignore").write_text("app\n")
    (context / "noise.log").write_text("seen now")
    old_hash = hash_context(str(context), str(context / "Dockerfile"))
    (context / "app/main.py").write_text("changed\n")
    assert hash_context(str(context), str(context / "Dockerfile")) == old_hash
    (context / "noise.log").write_text("changed")
    assert hash_context(str(context), str(context / "Dockerfile")) != old_hash


def test_an_exception_in_an_ignore_file_applies_as_in_a_build(context):
    (context / "app/data/deep").mkdir(parents=True)
    (context / ".dockerignore").write_text("**/data\n!**/keep.txt\n")
    hashes = set()
    for name in ("drop.txt", "keep.txt"):
        (context / "app/data/deep" / name).write_text("new")
        hashes.add(hash_context(str(context), str(context / "Dockerfile")))
    assert len(hashes) == 2


def test_an_unreadable_ignore_file_is_one_message(context):
    (context / ".dockerignore").write_text("a[b\n")
    with pytest.raises(ProviderError, match=r"^hashing build context: \.dockerignore: 'a\[b' is not a valid pattern"):
        hash_context(str(context), str(context / "Dockerfile"))


@pytest.mark.parametrize("name", ["cacheFrom", "cacheTo", "exports", "ssh"])
def test_unsupported_inputs_are_refused_by_name(docker_engine, context, name):
    news = {"push": False, "context": {"location": str(context)}, name: [{"x": "y"}]}
    _, failures = docker_engine.check(IMAGE, news)
    assert (name, f"{name}: the emulated docker-build provider does not have this property") in failures


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"context": {"location": "/nonexistent"}}, "context.location"),
        ({"dockerfile": {"location": "/nonexistent"}}, "dockerfile.location"),
        ({"dockerfile": {"inline": "FROM scratch\nRUM x"}}, "dockerfile.inline"),
        ({"dockerfile": {"inline": "FROM scratch", "location": "Dockerfile"}}, "dockerfile"),
        ({"tags": ["Not A Tag"]}, "tags[0]"),
        ({"platforms": ["linux/amd64", "linux/arm64"]}, "platforms"),
        ({"tags": []}, "tags"),
    ],
)
def test_invalid_inputs_are_reported_before_the_build(docker_engine, inputs, change, place):
    _, failures = docker_engine.check(IMAGE, {**inputs, **change})
    assert [path for path, _ in failures] == [place]


def test_a_password_is_always_a_secret_input(docker_engine, inputs):
    request = pb.CheckRequest(urn=f"urn:pulumi:d::p::{IMAGE}::i", news=to_struct(inputs))
    checked = docker_engine.rpc("Check", request).inputs
    password = checked.fields["registries"].list_value.values[0].struct_value.fields["password"]
    assert password.WhichOneof("kind") == "struct_value"


def test_a_preview_with_unknown_tags_builds_nothing_and_promises_nothing(docker_engine, inputs):
    _, planned = docker_engine.create(IMAGE, {**inputs, "tags": [UNKNOWN]}, preview=True)
    assert (planned["digest"], planned["ref"]) == (UNKNOWN, UNKNOWN)
    assert isinstance(planned["contextHash"], str)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM scratch\nRUN <<EOF\nnot an instruction\nEOF\nCOPY a b\n", None),
        ("ARG BASE=x\nFROM $BASE\nRUN a \\\n  # why\n  b\n", None),
        ("FROM scratch\nRUM x\n", "dockerfile parse error on line 2: unknown instruction: RUM"),
        ("RUN x\n", "dockerfile parse error on line 1: no build stage in current context"),
        ("# nothing\n", "file with no instructions"),
        ("# syntax=other/frontend\nANYTHING\n", None),
    ],
)
def test_a_dockerfile_is_validated_like_by_the_real_parser(text, expected):
    assert find_mistake(text) == expected


def test_a_failed_step_is_reported_with_its_line_and_output():
    said = """\
#5 [2/2] RUN pip install nothing
#5 ERROR: exit code: 1
------
 > [2/2] RUN pip install nothing:
#5 0.412 No matching distribution
------
executor failed running: exit code: 1"""
    step, output = find_failed_step(said.splitlines())
    assert step == "RUN pip install nothing"
    assert output == ["No matching distribution", "executor failed running: exit code: 1"]
    assert find_line("FROM a\n\nRUN --mount=type=cache,target=/c pip install \\\n  nothing\n", step) == 3
    assert find_failed_step(["Step 1/2 : FROM a", " ---> 1", "Step 2/2 : RUN x", "boom"]) == ("RUN x", ["boom"])


def test_a_failed_steps_output_is_shown_if_the_builder_does_not_repeat_it():
    # Docker 20.10: the cause stands above, under the step's number, among the output of other steps.
    lines = """\
#6 [one 1/2] RUN echo other
#6 0.100 other
#7 [code 3/3] RUN python3 -m compileall -q /app
#7 sha256:e981628331d87ef254e78086e5b4cac5884bf075e757a35668253089bd5fa3ee
#7 0.237 *** Error compiling '/app/bad.py'...
#6 0.238 other again
#7 0.237   File "/app/bad.py", line 1
#7 0.237 SyntaxError: invalid syntax
#7 0.237
#7 ERROR: executor failed running [/bin/sh -c python3 -m compileall -q /app]: exit code: 1
------
 > [code 3/3] RUN python3 -m compileall -q /app:
------
executor failed running [/bin/sh -c python3 -m compileall -q /app]: exit code: 1"""
    step, output = find_failed_step(lines.splitlines())
    assert step == "RUN python3 -m compileall -q /app"
    assert output == [
        "*** Error compiling '/app/bad.py'...",
        '  File "/app/bad.py", line 1',
        "SyntaxError: invalid syntax",
        "executor failed running [/bin/sh -c python3 -m compileall -q /app]: exit code: 1",
    ]


def test_a_failed_steps_output_is_shown_once_if_the_builder_repeats_it():
    # buildx: the step's last lines come again below it, without its number.
    lines = """\
#5 [2/2] RUN echo hello && false
#5 0.169 hello
#5 ERROR: process "/bin/sh -c echo hello && false" did not complete successfully: exit code: 1
------
 > [2/2] RUN echo hello && false:
0.169 hello
------
ERROR: failed to solve: exit code: 1"""
    assert find_failed_step(lines.splitlines())[1] == ["hello", "ERROR: failed to solve: exit code: 1"]


@pytest.mark.parametrize(
    ("text", "host", "name", "tag"),
    [
        ("127.0.0.1:8470/r/p/fleet/app:1", "127.0.0.1:8470", "127.0.0.1:8470/r/p/fleet/app", "1"),
        ("europe-docker.pkg.dev/p/r/app", "europe-docker.pkg.dev", "europe-docker.pkg.dev/p/r/app", "latest"),
        ("localhost/app", "localhost", "localhost/app", "latest"),
        ("library/app:2", "", "library/app", "2"),
    ],
)
def test_an_image_reference_is_split(text, host, name, tag):
    reference = parse_reference(text)
    assert (reference.host, reference.name, reference.tag) == (host, name, tag)


@pytest.mark.parametrize("address", ["127.0.0.1:8470", "http://127.0.0.1:8470", "http://127.0.0.1:8470/v2/"])
def test_credentials_are_found_by_the_registrys_host(address):
    login = Login(address, "u", "p")
    assert login.matches("127.0.0.1:8470")
    assert not login.matches("127.0.0.1:8471")


# --- a state that travels -----------------------------------------------------------------------------------


def test_defaults_are_the_real_plugins_and_cause_no_change_to_its_state(docker_engine, context):
    dockerfile = {"location": str(context / "Dockerfile")}
    program_inputs = {"push": False, "context": {"location": str(context)}, "dockerfile": dockerfile}
    inputs = docker_engine.checked(IMAGE, program_inputs)
    added = {"exec": False, "load": False, "noCache": False, "pull": False, "target": ""}
    assert {name: inputs[name] for name in added} == added
    assert inputs["dockerfile"] == {**program_inputs["dockerfile"], "inline": ""}
    now = hash_context(str(context), dockerfile["location"], "")
    older = {name: value for name, value in inputs.items() if name not in added} | {"dockerfile": dockerfile}
    for state in (inputs, older):
        assert docker_engine.changed(IMAGE, {**state, "contextHash": now}, inputs) == []


def test_a_provider_of_the_real_plugin_needs_no_replacement(docker_engine, monkeypatch):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    urn = "urn:pulumi:dev::proj::pulumi:providers:docker-build::default_0_0_22"
    checked = docker_engine.rpc("CheckConfig", pb.CheckRequest(urn=urn, news=to_struct({})))
    assert from_struct(checked.inputs) == {"host": ""}
    real = {"host": "", "version": "0.0.22", "__pulumi-go-provider-infer": True, "__pulumi-go-provider-version": "v1"}
    for olds, news in ((real, {"host": ""}), ({}, real)):
        answer = docker_engine.rpc("DiffConfig", pb.DiffRequest(urn=urn, olds=to_struct(olds), news=to_struct(news)))
        assert answer.changes == pb.DiffResponse.DIFF_NONE
