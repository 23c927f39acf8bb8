"""Real git fetches repositories: refs, commits, the cache, and where a token goes."""

import base64
import hashlib
import http.server
import os
import shutil
import stat
import subprocess
import textwrap
import threading
from pathlib import Path

import pytest

from pulumi_mcpfleet.sources import BuildPlanError
from pulumi_mcpfleet.sources.build_requirements import version_from_description
from pulumi_mcpfleet.sources.checkout import checkout
from pulumi_mcpfleet.sources.git import describe
from tests.integration.generated_repositories import TOKEN, PrivateGit

pytestmark = pytest.mark.integration


def git(folder, *arguments):
    identity = ("-c", "user.name=t", "-c", "user.email=t@acme.dev", "-c", "protocol.file.allow=always")
    done = subprocess.run(
        ["git", *identity, "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "GIT_CONFIG_NOSYSTEM": "1"},  # git-lfs as Debian has it would write pointers itself
    )
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


def test_a_tag_resolves_to_its_commit_and_a_branch_to_its_latest_commit(repository, tmp_path):
    tag = checkout(url(repository), "v1", tmp_path / "kept")
    branch = checkout(url(repository), "main", tmp_path / "kept")
    assert (tag.commit, tag.ref_description) == (git(repository, "rev-parse", "v1^{commit}"), "the tag v1 is")
    assert (branch.commit, branch.ref_description) == (git(repository, "rev-parse", "main"), "the branch main is")
    assert (tag.folder / "server.py").read_text() == "one"
    assert (branch.folder / "server.py").read_text() == "two"


def test_a_commit_is_fetched_by_its_id(repository, tmp_path):
    commit = git(repository, "rev-parse", "v1^{commit}")
    found = checkout(url(repository), commit, tmp_path / "kept")
    assert (found.folder / "server.py").read_text() == "one"
    assert found.commit == commit


def test_a_commit_that_the_server_refuses_by_id_is_found_in_its_branches(repository, tmp_path, monkeypatch):
    commit = git(repository, "rev-parse", "main")
    (repository / "server.py").write_text("three")
    git(repository, "commit", "--quiet", "-am", "three")
    config = tmp_path / "gitconfig"
    config.write_text("[protocol]\n\tversion = 0\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    found = checkout(url(repository), commit, tmp_path / "kept")
    assert (found.folder / "server.py").read_text() == "two"
    assert found.commit == commit
    with pytest.raises(BuildPlanError, match=f"no branch and no tag of {url(repository)} has the commit {'1' * 40}"):
        checkout(url(repository), "1" * 40, tmp_path / "kept")


def test_a_checkout_has_no_history_and_keeps_file_modes(repository, tmp_path):
    found = checkout(url(repository), "v1", tmp_path / "kept")
    assert sorted(entry.name for entry in found.folder.iterdir()) == ["run.sh", "server.py"]
    assert found.folder.joinpath("run.sh").stat().st_mode & stat.S_IXUSR
    assert [entry.name for entry in (tmp_path / "kept").iterdir()] == [found.folder.name], "nothing else is left"


def test_a_fetched_commit_is_not_fetched_again(repository, tmp_path):
    commit = git(repository, "rev-parse", "main")
    first = checkout(url(repository), commit, tmp_path / "kept")
    repository.rename(tmp_path / "gone")
    assert checkout(url(repository), commit, tmp_path / "kept") == first


@pytest.mark.parametrize(
    ("ref", "key", "said"),
    [
        ("no-such", "git.ref", "has no tag and no branch no-such; write one of git ls-remote"),
        ("0" * 40, "git.ref", "has the commit 00000"),
    ],
)
def test_a_missing_ref_is_reported(repository, tmp_path, ref, key, said):
    with pytest.raises(BuildPlanError) as refused:
        checkout(url(repository), ref, tmp_path / "kept")
    (mistake,) = refused.value.mistakes
    assert mistake.key == key
    assert said in mistake.message
    assert list((tmp_path / "kept").glob("*")) == [] if (tmp_path / "kept").exists() else True


def test_an_unreachable_url_is_reported_without_a_password_prompt(tmp_path):
    with pytest.raises(BuildPlanError, match=r"git\.url: git can't fetch http://127\.0\.0\.1:1/x\.git"):
        checkout("http://127.0.0.1:1/x.git", "main", tmp_path / "kept")


def test_a_token_reaches_git_in_a_private_file_for_its_host_and_on_no_command_line(repository, tmp_path, monkeypatch):
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
            # Another protocol than the address's is refused; this test stands in for the network.
            case " $* " in *" https://git.acme.dev/"*) unset GIT_ALLOW_PROTOCOL;; esac
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


# --- what a repository cannot have done --------------------------------------------------------------------


def made(place, files=(), links=(), submodules=()):
    """A repository with one commit, the branch main."""
    place.mkdir(parents=True)
    git(place, "init", "--quiet", "--initial-branch=main")
    for name, text in dict(files).items():
        (place / name).write_text(text)
    for name, target in dict(links).items():
        (place / name).symlink_to(target)
    git(place, "add", ".")
    named = ""
    for path, (address, commit) in dict(submodules).items():
        git(place, "update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
        named += f'[submodule "{path}"]\n\tpath = {path}\n\turl = {address}\n\tupdate = !touch {place}/ran\n'
    if named:
        (place / ".gitmodules").write_text(named)
        git(place, "add", ".gitmodules")
    git(place, "commit", "--quiet", "-m", "one")
    return place


def head(place):
    return git(place, "rev-parse", "HEAD")


@pytest.fixture
def hostile(tmp_path):
    files = {".gitattributes": "*.bin filter=lfs\n*.txt filter=crypt\n", "a.bin": "pointer", "b.txt": "text"}
    return made(tmp_path / "hostile", files)


@pytest.fixture
def configured(hostile, tmp_path, monkeypatch):
    """A user's own git, with filters, hooks and templates of his; gives the folder where what ran leaves its name."""
    ran = tmp_path / "ran"
    (tmp_path / "hooks").mkdir()
    (tmp_path / "template" / "hooks").mkdir(parents=True)
    ran.mkdir()
    for hook in (tmp_path / "hooks" / "post-checkout", tmp_path / "template" / "hooks" / "post-checkout"):
        hook.write_text(f"#!/bin/sh\ntouch {ran}/hook\n")
        hook.chmod(0o755)
    config = tmp_path / "gitconfig"
    lfs = f'[filter "lfs"]\n\tsmudge = touch {ran}/lfs\n\trequired = true\n'
    crypt = f"[filter \"crypt\"]\n\tsmudge = sh -c 'touch {ran}/filter; cat'\n"
    core = f"[core]\n\thooksPath = {tmp_path}/hooks\n\tfsmonitor = touch {ran}/fsmonitor\n"
    config.write_text(f"{lfs}{crypt}{core}[init]\n\ttemplateDir = {tmp_path}/template\n[submodule]\n\trecurse = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_TEMPLATE_DIR", str(tmp_path / "template"))
    yield ran
    assert not (tmp_path / "elsewhere").exists()


def test_a_repository_cannot_run_hooks_filters_templates_or_helpers(hostile, configured, tmp_path):
    found = checkout(url(hostile), "main", tmp_path / "kept")
    assert [*configured.iterdir()] == []
    assert (found.folder / "a.bin").read_text() == "pointer"
    assert (found.folder / "b.txt").read_text() == "text"
    assert found.notes == ("its files in Git LFS are not fetched: each is the text that points to it",)


def test_links_stay_links_and_are_not_followed_out_of_the_repository(tmp_path):
    place = made(
        tmp_path / "hostile", {"server.py": ""}, {"key": "/etc/passwd", "up": "../../..", ".dockerignore": "/etc/hosts"}
    )
    found = checkout(url(place), "main", tmp_path / "kept")
    assert (found.folder / "key").readlink() == Path("/etc/passwd")
    assert (found.folder / ".dockerignore").is_symlink()


def test_submodules_are_fetched_only_if_configured(tmp_path):
    inner = made(tmp_path / "inner", {"inner.txt": "in"})
    outer = made(tmp_path / "outer", {"server.py": ""}, submodules={"lib": ("../inner", head(inner))})
    alone = checkout(url(outer), "main", tmp_path / "kept")
    assert alone.notes == ("its submodules are not fetched (`git.submodules`)",)
    assert [*(alone.folder / "lib").iterdir()] == []
    whole = checkout(url(outer), "main", tmp_path / "kept", submodules=True)
    assert (whole.folder / "lib" / "inner.txt").read_text() == "in"
    assert whole.notes == ()
    assert whole.folder != alone.folder
    assert [*whole.folder.rglob(".git")] == []
    assert not (outer / "ran").exists(), "no command of the repository's own"


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:1/x.git",
        "git://127.0.0.1:1/x",
        "ssh://git@127.0.0.1:1/x",
        "git@127.0.0.1:x",
        "ext::sh -c id",
        "-u@x:y",
        "/etc",
        "ssh://-oProxyCommand=id/x",
    ],
)
def test_a_submodule_of_another_host_is_fetched_only_by_https(tmp_path, address):
    outer = made(tmp_path / "outer", {"server.py": ""}, submodules={"lib": (address, "0" * 39 + "1")})
    with pytest.raises(BuildPlanError, match=r"^git\.submodules: the submodule 'lib' is at '"):
        checkout(url(outer), "main", tmp_path / "kept", submodules=True)
    assert [*(tmp_path / "kept").iterdir()] == []


def test_submodules_nested_too_deeply_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pulumi_mcpfleet.sources.checkout._MAX_DEPTH", 2)
    last = made(tmp_path / "r0", {"a": ""})
    for number in range(1, 5):
        last = made(tmp_path / f"r{number}", {"a": ""}, submodules={"next": (f"../r{number - 1}", head(last))})
    with pytest.raises(BuildPlanError, match="the submodule 'next' is one too many"):
        checkout(url(last), "main", tmp_path / "kept", submodules=True)


# --- the version of a folder ---------------------------------------------------------------------------------


def test_a_folders_version_comes_from_its_repositorys_tags(repository):
    (repository / "inner").mkdir()
    assert describe(repository / "inner").startswith("v1-1-g")
    assert version_from_description(describe(repository)) == f"2.dev1+g{head(repository)[:9]}"
    assert describe(repository.parent) == "", "in no repository"


# --- large files -------------------------------------------------------------------------------------------

needs_lfs = pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed")


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A private repository with a file in Git LFS, whose own configuration names another server of its files."""
    content = b"weights" * 1000
    oid = hashlib.sha256(content).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n"
    files = {".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n", "model.bin": pointer, "server.py": ""}
    files |= {".lfsconfig": "[lfs]\n\turl = https://127.0.0.1:1/elsewhere\n"}
    made(tmp_path / "repositories" / "weather", files)
    server = PrivateGit(tmp_path / "repositories", tmp_path)
    server.large[oid] = content
    monkeypatch.setenv("GIT_SSL_CAINFO", str(server.authority))
    yield server, content
    server.close()


@needs_lfs
def test_large_files_are_fetched_from_the_repositorys_own_server_with_its_token(large, tmp_path):
    server, content = large
    found = checkout(f"{server.url}/weather/.git", "main", tmp_path / "kept", TOKEN, lfs=True)
    assert (found.folder / "model.bin").read_bytes() == content
    assert found.notes == ()
    assert server.seen_in_argv == []
    assert not (found.folder / ".git").exists()
    pointers = checkout(f"{server.url}/weather/.git", "main", tmp_path / "kept", TOKEN)
    assert (pointers.folder / "model.bin").stat().st_size < 200, "the two are kept apart"


@needs_lfs
def test_large_files_at_another_host_are_fetched_without_the_token(large, tmp_path):
    server, _ = large
    with Listening() as other:
        server.large_are_at = other.url
        with pytest.raises(
            BuildPlanError, match=r"^git\.lfs: git can't fetch .*; or write lfs: pointers, to build without"
        ):
            checkout(f"{server.url}/weather/.git", "main", tmp_path / "kept", TOKEN, lfs=True)
        assert other.asked
        assert other.shown == []


@needs_lfs
def test_a_large_file_with_a_wrong_hash_is_refused(large, tmp_path):
    server, _ = large
    server.large = dict.fromkeys(server.large, b"poison!" * 1000)
    with pytest.raises(BuildPlanError, match=r"^git\.lfs: git can't fetch "):
        checkout(f"{server.url}/weather/.git", "main", tmp_path / "kept", TOKEN, lfs=True)
    assert [*(tmp_path / "kept").iterdir()] == []


def test_a_missing_git_lfs_is_reported_with_what_to_install(large, tmp_path, monkeypatch):
    server, _ = large
    (tmp_path / "bin").mkdir()
    for name in ("git", "env", "ssh"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("GIT_EXEC_PATH", subprocess.check_output(["git", "--exec-path"], text=True).strip())
    with pytest.raises(BuildPlanError, match=r"^git\.lfs: git-lfs is not installed; install it"):
        checkout(f"{server.url}/weather/.git", "main", tmp_path / "kept", TOKEN, lfs=True)


# --- to whom a token goes ----------------------------------------------------------------------------------


class Listening:
    """An HTTP server that notes the credentials that it is shown, and may send to another, or be a repository."""

    def __init__(self, leads_to="", status=302, repository=None, only=""):
        self.shown, self.asked = [], []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                self.rfile.read(int(self.headers.get("content-length") or 0))
                outer.asked.append(f"{self.command} {self.path}")
                outer.shown += [
                    value for name, value in self.headers.items() if name.lower() in ("authorization", "cookie")
                ]
                if leads_to and (not only or self.command == only):
                    self.send_response(status)
                    self.send_header("location", leads_to + self.path)
                    self.send_header("content-length", "0")
                    self.end_headers()
                    return None
                file = repository / self.path.partition("?")[0].removeprefix("/x.git/") if repository else Path("/no")
                if self.command == "GET" and "service=git-upload-pack" in self.path and repository:
                    said = subprocess.run(
                        ["git", "upload-pack", "--advertise-refs", "--stateless-rpc", str(repository)],
                        capture_output=True,
                        timeout=30,
                    ).stdout
                    head = b"001e# service=git-upload-pack\n0000"
                    return self.say(200, head + said, "application/x-git-upload-pack-advertisement")
                return self.say(
                    200 if file.is_file() else 404, file.read_bytes() if file.is_file() else b"", "text/plain"
                )

            def say(self, status, content, kind):
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET  # noqa: N815 - as the library calls it

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("only", ["", "POST"])
def test_a_token_is_not_sent_after_a_redirect_to_another_host_port_or_scheme(repository, tmp_path, status, only):
    with Listening() as other:
        for leads_to in (other.url, other.url.replace("127.0.0.1", "localhost"), other.url.replace("http", "https")):
            with Listening(leads_to, status, repository / ".git", only) as first:
                with pytest.raises(BuildPlanError) as refused:
                    checkout(f"{first.url}/x.git", "main", tmp_path / "kept", "t0ken-of-ours")
                assert first.shown, "the token went to the host that it is for"
                assert "t0ken-of-ours" not in str(refused.value)
                assert base64.b64encode(b"x-access-token:t0ken-of-ours").decode() not in str(refused.value)
        assert (other.shown, other.asked) == ([], []), "nobody else was asked at all"


def test_a_redirect_is_refused_with_the_url_to_write(tmp_path):
    with (
        Listening("http://127.0.0.1:1") as first,
        pytest.raises(BuildPlanError, match="redirects to another address, which is not"),
    ):
        checkout(f"{first.url}/x", "main", tmp_path / "kept")


def test_a_submodule_of_another_host_is_fetched_without_credentials(tmp_path, monkeypatch):
    private = tmp_path / "private"
    private.mkdir()
    (private / ".netrc").write_text("machine 127.0.0.1 login me password my-own\n")
    (private / ".gitconfig").write_text(
        '[credential]\n\thelper = "!echo username=me; echo password=my-own"\n'
        "[http]\n\textraHeader = Authorization: Basic my-own\n"
    )
    monkeypatch.setenv("HOME", str(private))
    monkeypatch.delenv("GIT_CONFIG_GLOBAL", raising=False)
    # https is what other hosts are asked by; for this test a plain server stands in for one.
    monkeypatch.setattr(
        "pulumi_mcpfleet.sources.checkout.host_of", lambda address: ("", "other" if "x.git" in address else "ours")
    )
    monkeypatch.setattr("pulumi_mcpfleet.sources.checkout._OTHER_HOST_SCHEME", "http://")
    with Listening() as other:
        outer = made(tmp_path / "outer", {"server.py": ""}, submodules={"lib": (f"{other.url}/x.git", "0" * 39 + "1")})
        with pytest.raises(BuildPlanError, match="git can't fetch"):
            checkout(url(outer), "main", tmp_path / "kept", "t0ken-of-ours", submodules=True)
        assert other.asked
        assert other.shown == []
        with pytest.raises(BuildPlanError):
            checkout(f"{other.url}/x.git", "main", tmp_path / "kept")
        assert other.shown != [], "the test's own configuration is read where the host is the user's choice"
