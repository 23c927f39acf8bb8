"""Git repositories fetched by the real git: refs, commits, what is kept, and where a token goes."""

import os
import stat
import subprocess
import textwrap
from pathlib import Path

import pytest

from infra.sources import RecipeError
from infra.sources.checkout import checkout

pytestmark = pytest.mark.integration


def git(folder, *arguments):
    identity = ("-c", "user.name=t", "-c", "user.email=t@acme.dev", "-c", "protocol.file.allow=always")
    done = subprocess.run(["git", *identity, "-C", str(folder), *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A repository with two commits: the first is the tag v1 (annotated), the second the branch main."""
    place = tmp_path / "repository"
    place.mkdir()
    git(place, "init", "--quiet", "--initial-branch=main")
    (place / "server.py").write_text("one")
    (place / "run.sh").write_text("#!/bin/sh\n")
    (place / "run.sh").chmod(0o755)
    git(place, "add", ".")
    git(place, "commit", "--quiet", "-m", "one")
    git(place, "tag", "-a", "v1", "-m", "one")
    (place / "server.py").write_text("two")
    git(place, "commit", "--quiet", "-am", "two")
    return place


def url(repository):
    return f"file://{repository}"


def test_a_tag_is_the_commit_that_it_names_and_a_branch_the_one_that_it_is_now(repository, tmp_path):
    tag = checkout(url(repository), "v1", tmp_path / "kept")
    branch = checkout(url(repository), "main", tmp_path / "kept")
    assert (tag.commit, tag.said) == (git(repository, "rev-parse", "v1^{commit}"), "the tag v1 is")
    assert (branch.commit, branch.said) == (git(repository, "rev-parse", "main"), "the branch main is")
    assert (tag.folder / "server.py").read_text() == "one"
    assert (branch.folder / "server.py").read_text() == "two"


def test_a_commit_is_fetched_by_its_id(repository, tmp_path):
    commit = git(repository, "rev-parse", "v1^{commit}")
    found = checkout(url(repository), commit, tmp_path / "kept")
    assert (found.folder / "server.py").read_text() == "one"
    assert found.commit == commit


def test_what_is_kept_has_no_history_and_the_modes_of_the_files(repository, tmp_path):
    found = checkout(url(repository), "v1", tmp_path / "kept")
    assert sorted(entry.name for entry in found.folder.iterdir()) == ["run.sh", "server.py"]
    assert found.folder.joinpath("run.sh").stat().st_mode & stat.S_IXUSR
    assert [entry.name for entry in (tmp_path / "kept").iterdir()] == [found.folder.name], "nothing else is left"


def test_a_commit_that_was_fetched_before_is_not_fetched_again(repository, tmp_path):
    commit = git(repository, "rev-parse", "main")
    first = checkout(url(repository), commit, tmp_path / "kept")
    repository.rename(tmp_path / "gone")
    assert checkout(url(repository), commit, tmp_path / "kept") == first


@pytest.mark.parametrize(
    ("ref", "key", "said"),
    [
        ("no-such", "git.ref", "has no tag and no branch no-such; write one of git ls-remote"),
        ("0" * 40, "git.url", "git can't fetch"),
    ],
)
def test_a_ref_that_is_not_there_is_said_so(repository, tmp_path, ref, key, said):
    with pytest.raises(RecipeError) as refused:
        checkout(url(repository), ref, tmp_path / "kept")
    (mistake,) = refused.value.mistakes
    assert mistake.key == key
    assert said in mistake.sentence
    assert list((tmp_path / "kept").glob("*")) == [] if (tmp_path / "kept").exists() else True


def test_an_address_that_does_not_answer_is_said_so_and_nobody_is_asked_for_a_password(tmp_path):
    with pytest.raises(RecipeError, match=r"git\.url: git can't fetch http://127\.0\.0\.1:1/x\.git"):
        checkout("http://127.0.0.1:1/x.git", "main", tmp_path / "kept")


def test_a_token_goes_to_git_by_a_private_file_for_that_host_and_never_stands_in_a_command_line(
    repository, tmp_path, monkeypatch
):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "git"
    real = subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout.strip()
    # A git that notes what it was told, and fetches from the repository instead of the host.
    program.write_text(
        textwrap.dedent(
            f"""\
            #!/bin/bash
            echo "$*" >> {tmp_path}/told
            for word in "$@"; do case $word in include.path=*) file=${{word#include.path=}};
              stat -c %a "$(dirname "$file")" >> {tmp_path}/mode; cat "$file" >> {tmp_path}/configured
              echo "$file" >> {tmp_path}/files;;
            esac; done
            exec {real} -c url.file://{repository}.insteadOf=https://git.acme.dev/weather.git "$@"
            """
        )
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    found = checkout("https://git.acme.dev/weather.git", "v1", tmp_path / "kept", "t0ken-of-ours")
    assert (found.folder / "server.py").read_text() == "one"
    assert "t0ken" not in (tmp_path / "told").read_text()
    assert set((tmp_path / "mode").read_text().split()) == {"700"}
    configured = (tmp_path / "configured").read_text()
    assert configured.startswith('[http "https://git.acme.dev/"]\n\textraHeader = Authorization: Basic ')
    assert not any(Path(file).exists() for file in (tmp_path / "files").read_text().split()), "the file is gone"
    assert b"t0ken" not in b"".join(path.read_bytes() for path in (tmp_path / "kept").rglob("*") if path.is_file())
