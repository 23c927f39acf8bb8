"""A hostile build context: what the docker command itself opens is the context's own."""

from pathlib import Path

import pytest

from mcpfleet_local_cloud.plugins.call import ProviderError
from mcpfleet_local_cloud.plugins.docker_build import builder, image
from mcpfleet_local_cloud.plugins.docker_build.builder import (
    Builder,
    BuildOptions,
    _command,
    _escape_control_characters,
)
from mcpfleet_local_cloud.plugins.docker_build.context import hash_context
from tests.unit.infra.sources.hostile import KEY, WAYS_OUT, outside

IMAGE = "docker-build:index:Image"


@pytest.fixture
def context(tmp_path):
    place = tmp_path / "context"
    place.mkdir()
    (place / "Dockerfile").write_text("FROM scratch\n")
    return place


@pytest.mark.parametrize("kind", WAYS_OUT, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", ["Dockerfile", ".dockerignore", "Dockerfile.dockerignore"])
def test_no_link_out_of_a_context_is_followed_and_no_pipe_is_opened(docker_engine, context, tmp_path, name, kind):
    (context / name).unlink(missing_ok=True)
    kind(context / name, outside(tmp_path))
    with pytest.raises(ProviderError, match="hashing build context: ") as refused:
        hash_context(str(context), str(context / "Dockerfile"))
    assert "BEGIN" not in str(refused.value)
    news = {"push": False, "context": {"location": str(context)}}
    _, failures = docker_engine.check(IMAGE, news)
    if name == "Dockerfile":
        assert [path for path, _ in failures] == ["dockerfile.location"]
    assert "BEGIN" not in str(failures)


def test_a_link_in_a_context_is_hashed_by_its_target_path(context, tmp_path):
    away = outside(tmp_path)
    (context / "key").symlink_to(away / "id_ed25519")
    (context / "all").symlink_to(away)
    old_hash = hash_context(str(context), str(context / "Dockerfile"))
    (away / "id_ed25519").write_text(KEY + KEY)
    assert hash_context(str(context), str(context / "Dockerfile")) == old_hash


def test_a_dockerfile_outside_the_context_is_accepted_if_the_program_names_it(context, tmp_path):
    away = outside(tmp_path)
    (away / "Dockerfile").write_text("FROM scratch\n")
    assert hash_context(str(context), str(away / "Dockerfile"))


def test_a_context_path_is_never_parsed_as_an_option(tmp_path):
    command = _command(Builder("docker", buildkit=True), BuildOptions(context="--network=host"), tmp_path)
    assert command[-2:] == ["--", "--network=host"]


def test_build_output_contains_no_terminal_or_pulumi_commands():
    assert _escape_control_characters("\x1b[2J<{%fg 1%}>✓\u202e") == "\\x1b[2J< {%fg 1%}>✓\\u202e"


@pytest.fixture
def files_sent(monkeypatch):
    """Builds with a docker command of a kind of builder; returns the paths and the texts that the command gets."""

    def files_sent(options, *, buildkit):
        sent = {}

        def run_command(_call, command, _environment):
            folder = Path(command[-1])
            sent.update({file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if not file.is_dir()})
            Path(command[command.index("--iidfile") + 1]).write_text("sha256:a")
            return [], 0

        monkeypatch.setattr(builder, "find_builder", lambda _path: Builder("docker", buildkit=buildkit))
        monkeypatch.setattr(builder, "docker_environment", dict)
        monkeypatch.setattr(builder, "run_command", run_command)
        builder.build(None, options)
        return set(sent)

    return files_sent


def test_the_classic_builder_gets_only_what_the_ignore_file_of_the_dockerfile_leaves_in(context, tmp_path, files_sent):
    (context / ".mcpfleet").mkdir()
    (context / ".mcpfleet" / "key.pem").write_text(KEY)
    (context / ".dockerignore").write_text("server.py\n")
    (context / "server.py").write_text("x")
    (context / "link").symlink_to("/etc/passwd")
    dockerfile = tmp_path / "echo.Dockerfile"
    dockerfile.write_text("FROM scratch\nCOPY . .\n")
    dockerfile.with_name("echo.Dockerfile.dockerignore").write_text("!**\n**/.mcpfleet\n")
    options = BuildOptions(context=str(context), dockerfile=str(dockerfile))
    assert files_sent(options, buildkit=False) == {"Dockerfile", "server.py", "link"}
    assert ".mcpfleet/key.pem" in files_sent(options, buildkit=True)  # BuildKit reads that ignore file itself
    assert (context / ".mcpfleet" / "key.pem").exists()


class Images:
    """Docker's store; a registry refuses every push."""

    def __init__(self):
        self.untagged, self.closed = [], False

    def find_tagged(self, tags):
        return []

    def push(self, call, tag, logins):
        raise ProviderError("the push was refused")

    def untag(self, tags, image_id):
        self.untagged.append(([*tags], image_id))

    def close(self):
        self.closed = True


def test_a_refused_push_leaves_no_tag(context, monkeypatch):
    images = Images()
    monkeypatch.setattr(image, "LocalImages", lambda: images)
    monkeypatch.setattr(image, "build", lambda call, wanted: "sha256:a")
    news = {"push": True, "tags": ["127.0.0.1:9/a:latest"], "context": {"location": str(context)}}
    with pytest.raises(ProviderError, match="the push was refused"):
        image.Image().create(None, None, "a", news, preview=False)
    assert images.untagged == [(["127.0.0.1:9/a:latest"], "sha256:a")]
    assert images.closed
