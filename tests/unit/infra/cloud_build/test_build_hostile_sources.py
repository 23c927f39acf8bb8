"""A hostile source on its way to Cloud Build: nothing outside of it is read, and what it writes commands nobody."""

import io
import tarfile

import pytest

from pulumi_mcpfleet.cloud_build.archive import ArchiveSource, source_hash, write_archive
from pulumi_mcpfleet.cloud_build.errors import BuildError, inert
from tests.unit.infra.sources.hostile import KEY, WAYS_OUT, outside, pipe

READ = (".dockerignore", ".gcloudignore", ".gitignore", "Dockerfile", "Dockerfile.dockerignore")


@pytest.fixture
def source(tmp_path):
    place = tmp_path / "source"
    place.mkdir()
    (place / "Dockerfile").write_text("FROM scratch\n")
    return place


@pytest.mark.parametrize("link_kind", WAYS_OUT, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", READ)
def test_what_is_read_of_a_source_is_its_own(source, tmp_path, name, link_kind):
    (source / name).unlink(missing_ok=True)
    link_kind(source / name, outside(tmp_path))
    with pytest.raises(BuildError) as refused:
        source_hash(ArchiveSource(str(source)))
    assert f"{name} in {source} is not a plain file of the source" in str(refused.value)
    assert "BEGIN" not in str(refused.value)


@pytest.mark.parametrize("link_kind", WAYS_OUT, ids=lambda way: way.__name__)
def test_an_included_ignore_file_is_the_sources_own(source, tmp_path, link_kind):
    (source / ".gcloudignore").write_text("#!include:more\n")
    link_kind(source / "more", outside(tmp_path))
    with pytest.raises(BuildError, match=r"more in .* is not a plain file of the source"):
        source_hash(ArchiveSource(str(source)))


def test_a_dockerfile_beside_the_source_is_not_taken(source, tmp_path):
    outside(tmp_path)
    with pytest.raises(BuildError, match="is not a plain file of the source"):
        source_hash(ArchiveSource(str(source), "../outside/id_ed25519"))


@pytest.mark.parametrize("link_kind", [way for way in WAYS_OUT if way is not pipe], ids=lambda way: way.__name__)
def test_a_link_in_a_source_goes_as_a_link_and_nothing_behind_it(source, tmp_path, link_kind):
    away = outside(tmp_path)
    link_kind(source / "data", away)
    (source / "all").symlink_to(away)
    content = io.BytesIO()
    write_archive(ArchiveSource(str(source)), content)
    assert KEY.encode() not in content.getvalue()
    with tarfile.open(fileobj=io.BytesIO(content.getvalue()), mode="r:gz") as archive:
        kinds = {member.name: member.type for member in archive}
        assert KEY.encode() not in b"".join(archive.extractfile(member).read() for member in archive if member.isfile())
    assert kinds["source/all"] == tarfile.SYMTYPE
    assert kinds.get("source/data", tarfile.SYMTYPE) == tarfile.SYMTYPE, "a socket is not sent"


def test_links_between_the_files_of_a_source_are_followed(source):
    (source / "docker").mkdir()
    (source / "docker" / "Dockerfile").write_text("FROM scratch\n")
    (source / ".dockerignore").symlink_to("docker/ignored")
    (source / "docker" / "ignored").write_bytes(b"*.log\n\xff\n")
    (source / "a.log").write_text("")
    (source / "Dockerfile").unlink()
    (source / "Dockerfile").symlink_to("docker/Dockerfile")
    content = io.BytesIO()
    write_archive(ArchiveSource(str(source)), content)
    with tarfile.open(fileobj=io.BytesIO(content.getvalue()), mode="r:gz") as archive:
        assert "source/a.log" not in archive.getnames()


def test_what_a_build_writes_commands_no_terminal_and_no_engine():
    assert inert("a\tb\n\x1b]0;x\x07<{%fg 1%}>\r✓") == "a\tb\n\\x1b]0;x\\x07< {%fg 1%}>\\r✓"
