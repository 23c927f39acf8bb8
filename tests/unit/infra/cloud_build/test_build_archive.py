"""The archive of a source: the same content, the same bytes; and what is left out of it."""

import gzip
import io
import os
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulumi_mcpfleet.cloud_build.archive import ArchiveSource, content_hash, source_hash, write_archive
from pulumi_mcpfleet.cloud_build.errors import BuildError
from pulumi_mcpfleet.cloud_build.ignore_files import DockerIgnore, included_files

NAMES = st.sampled_from(["a", "b.txt", "é", "x y", "-z", "node_modules", ".env", "A"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TREES = st.dictionaries(PATHS, st.tuples(st.binary(max_size=20), st.booleans()), max_size=6)


def write(root, files, mtime=0):
    """Write text files; a value that is a pair is (content, may be run)."""
    for name, value in files.items():
        content, run = value if isinstance(value, tuple) else (value, False)
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(0o740 if run else 0o604)
        os.utime(path, (mtime, mtime))
    return root


def without_clashes(tree):
    """The tree without files in whose place a folder is needed."""
    return {name: value for name, value in tree.items() if not any(other.startswith(f"{name}/") for other in tree)}


def entries(source):
    content = io.BytesIO()
    write_archive(source, content)
    with tarfile.open(fileobj=io.BytesIO(content.getvalue()), mode="r:gz") as archive:
        return {
            member.name: (member, archive.extractfile(member).read() if member.isfile() else b"") for member in archive
        }


@given(TREES, st.integers(0, 2_000_000_000))
def test_the_same_content_gives_the_same_bytes_whenever_it_was_written(tmp_path_factory, tree, time):
    tree = {**without_clashes(tree), "Dockerfile": b"FROM x"}
    folder = write(tmp_path_factory.mktemp("one"), tree, 1)
    other = write(tmp_path_factory.mktemp("other"), dict(reversed(tree.items())), time)
    archives = [io.BytesIO(), io.BytesIO()]
    hashes = [
        write_archive(ArchiveSource(str(root)), file) for root, file in zip((folder, other), archives, strict=True)
    ]
    assert hashes[0] == hashes[1] == source_hash(ArchiveSource(str(folder)))
    assert archives[0].getvalue() == archives[1].getvalue()


@given(TREES, TREES)
def test_other_content_gives_another_hash(tmp_path_factory, one, other):
    trees = [{**without_clashes(tree), "Dockerfile": b"FROM x"} for tree in (one, other)]
    hashes = [source_hash(ArchiveSource(str(write(tmp_path_factory.mktemp("tree"), tree)))) for tree in trees]
    assert (hashes[0] == hashes[1]) == (trees[0] == trees[1])


def test_owners_times_and_odd_permissions_are_not_in_it(tmp_path):
    write(tmp_path, {"a": ("1", False), "run": ("2", True), "Dockerfile": "FROM x"}, 12345)
    (tmp_path / "link").symlink_to("/etc/elsewhere")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    members = entries(ArchiveSource(str(tmp_path)))
    assert set(members) == {"source/Dockerfile", "source/a", "source/run", "source/link"}
    assert {(member.uid, member.gid, member.uname, member.gname, member.mtime) for member, _ in members.values()} == {
        (0, 0, "", "", 315_619_200)
    }
    assert {name: oct(member.mode) for name, (member, _) in members.items() if not member.issym()} == {
        "source/Dockerfile": "0o644",
        "source/a": "0o644",
        "source/run": "0o755",
    }
    assert members["source/link"][0].linkname == "/etc/elsewhere"


def test_a_made_dockerfile_is_beside_the_source_where_no_copy_line_sees_it(tmp_path):
    write(tmp_path, {"a": "1"})
    source = ArchiveSource(str(tmp_path), inline="FROM made")
    members = entries(source)
    assert set(members) == {"Dockerfile", "source/a"}
    assert members["Dockerfile"][1] == b"FROM made"
    assert source.archived_dockerfile == "Dockerfile"
    assert ArchiveSource(str(tmp_path), "deploy/Dockerfile").archived_dockerfile == "source/deploy/Dockerfile"


def test_the_compression_says_nothing_of_when_and_where(tmp_path):
    write(tmp_path, {"Dockerfile": "FROM x"})
    content = io.BytesIO()
    write_archive(ArchiveSource(str(tmp_path)), content)
    header = content.getvalue()[:10]
    assert header[3] == 0, "no file name"
    assert header[4:8] == b"\0\0\0\0", "no time"
    assert gzip.decompress(content.getvalue())


@pytest.mark.parametrize(
    ("files", "dockerfile", "message"),
    [
        (None, "Dockerfile", "there is no folder "),
        ({"a": "1"}, "Dockerfile", "there is no Dockerfile in "),
        ({"Dockerfile": "", ".dockerignore": "!"}, "Dockerfile", '.dockerignore: illegal exclusion pattern: "!"'),
        (
            {"Dockerfile": "", ".dockerignore": "a[b"},
            "Dockerfile",
            (".dockerignore: 'a[b' is not a valid pattern; correct it"),
        ),
        (
            {"Dockerfile": "", ".gcloudignore": "#!include:no"},
            "Dockerfile",
            ".gcloudignore: #!include:no names no file",
        ),
        ({"Dockerfile": "", ".gcloudignore": "#!include:.gcloudignore"}, "Dockerfile", "include each other"),
    ],
)
def test_what_cannot_be_archived_is_one_sentence(tmp_path, files, dockerfile, message):
    folder = tmp_path / "folder"
    if files is not None:
        write(folder, files)
    with pytest.raises(BuildError, match=r".+") as refusal:
        source_hash(ArchiveSource(str(folder), dockerfile))
    assert message in str(refusal.value)


def test_arguments_and_labels_are_content_too():
    hashes = {
        content_hash("s", {}, {}),
        content_hash("t", {}, {}),
        content_hash("s", {"A": "1"}, {}),
        content_hash("s", {"A": "2"}, {}),
        content_hash("s", {}, {"A": "1"}),
        content_hash("s", {}, {}, "prod"),
    }
    assert len(hashes) == 6
    assert content_hash("s", {"A": "1", "B": "2"}, {}) == content_hash("s", {"B": "2", "A": "1"}, {})


# What Docker's own tests say (moby/patternmatcher), and its reference on .dockerignore.
@pytest.mark.parametrize(
    ("patterns", "path", "out"),
    [
        (["*.md"], "README.md", True),
        (["*.md"], "docs/README.md", False),
        (["**/*.md"], "docs/a/README.md", True),
        (["**/*.md"], "README.md", True),
        (["*.md", "!README*.md", "README-secret.md"], "README.md", False),
        (["*.md", "!README*.md", "README-secret.md"], "README-secret.md", True),
        (["*.md", "README-secret.md", "!README*.md"], "README-secret.md", False),
        (["*/temp*"], "somedir/temporary.txt", True),
        (["*/temp*"], "temporary.txt", False),
        (["*/*/temp*"], "somedir/sub/temp", True),
        (["temp?"], "tempa", True),
        (["temp?"], "temp", False),
        (["/foo/bar"], "foo/bar", True),
        (["foo/"], "foo/deep/file", True),
        (["foo/../bar"], "bar", True),
        (["."], "a", False),
        (["**"], "a/b", True),
        (["**", "!a/b"], "a/b", False),
        (["**/data", "!**/keep.txt"], "x/data/y/keep.txt", False),
        (["**/data", "!**/keep.txt"], "x/data/y/drop.txt", True),
        (["node_modules"], "node_modules/x/y.js", True),
        (["node_modules"], "a/node_modules/y.js", False),
        (["**/node_modules"], "node_modules/x/y.js", True),
        (["a/**/b"], "a/b", True),
        (["a/**/b"], "a/x/y/b", True),
        (["a**b"], "a/x/b", True),
        (["[a-c].txt"], "b.txt", True),
        (["[^a-c].txt"], "b.txt", False),
        (["[^a-c].txt"], "z.txt", True),
        (["\\*.txt"], "*.txt", True),
        (["\\*.txt"], "a.txt", False),
        (["a.c"], "abc", False),
        (["#a"], "#a", False),
        (["  spaced  "], "spaced", True),
    ],
)
def test_dockerignore_leaves_out_what_docker_leaves_out(patterns, path, out):
    assert DockerIgnore(patterns).excludes(path) is out


@pytest.mark.parametrize("dockerfile", [None, "Dockerfile"])
def test_the_keys_of_a_local_cloud_are_never_sent(tmp_path, dockerfile):
    keys = {".mcpfleet/key.pem": "a private key", "fleet/.mcpfleet/key.pem": "a private key"}
    write(tmp_path, {"Dockerfile": "FROM x", ".dockerignore": "!**/.mcpfleet", "server.py": "", **keys})
    assert not [name for name in included_files(tmp_path, dockerfile) if "key.pem" in name]


def test_environments_and_secrets_are_not_sent_where_the_dockerfile_is_made(tmp_path):
    write(tmp_path, dict.fromkeys([".env", ".venv/a", "venv/a", "node_modules/a", "src/.env", "server.py"], ""))
    assert included_files(tmp_path) == ["server.py", "src/.env"]
    assert ".env" in included_files(tmp_path, "Dockerfile"), "what a Dockerfile of its own takes is its own business"


@pytest.mark.parametrize(
    ("patterns", "folder", "skipped"),
    [
        (["*", "!src"], ".venv", True),
        (["*", "!src"], "src", False),
        (["*", "!a/b/c"], "a", False),
        (["*", "!a/b/c"], "a/b", False),
        (["*", "!a/b/c"], "a/x", True),
        (["*", "!a/b/c"], "a/b/x", True),
        (["*", "!x/*/y"], "x/z", False),
        (["*", "!**/keep"], ".venv", False),
        (["*", "!/./src/"], "x", True),
        (["*", "!a\\/b"], "a", False),
        (["a", "!a/b"], "b", False),
    ],
)
def test_a_folder_is_skipped_below_which_no_exception_takes_anything_in(patterns, folder, skipped):
    assert DockerIgnore(patterns).excludes_all_below(folder) is skipped


NEAR_LINES = st.lists(st.sampled_from(["*", "!a", "!b.txt/a", "!*/A", "a*", "!**/A", "!a/[A-b]/-z", "**"]), max_size=4)


@given(NEAR_LINES, PATHS, PATHS)
def test_nothing_below_a_folder_that_is_skipped_is_wanted(lines, folder, name):
    ignore = DockerIgnore(lines)
    assert not ignore.excludes_all_below(folder) or ignore.excludes(f"{folder}/{name}")


LINES = st.lists(st.text("ab*?!/.[]^-\\# é", max_size=8), max_size=5)


@given(LINES, PATHS)
def test_any_dockerignore_decides_or_says_what_is_wrong_with_it(lines, path):
    try:
        ignore = DockerIgnore(lines)
    except BuildError:
        return
    assert ignore.excludes(path) in (True, False)
    folder, _, _ = path.rpartition("/")
    if folder and ignore.excludes_all_below(folder):
        assert ignore.excludes(path), "nothing below a folder that is skipped is wanted"


@pytest.mark.parametrize(
    ("files", "sent"),
    [
        ({".dockerignore": "*\n!src"}, {".dockerignore", "src/app.py"}),
        ({".gitignore": "*.log\nbuild/\n"}, {"src/app.py", "tests/t.py"}),
        ({".gcloudignore": "tests/\n.gcloudignore\n"}, {"a.log", "build/out", ".git/HEAD", "src/app.py"}),
        ({".gcloudignore": "#!include:.gitignore\ntests\n", ".gitignore": "*.log\n!a.log"}, None),
        ({".gcloudignore": "/*\n!/src/\n"}, {"src/app.py"}),
        ({"deploy/Dockerfile.dockerignore": "src", ".dockerignore": "tests"}, None),
        ({}, {"a.log", "build/out", "src/app.py", "tests/t.py"}),
    ],
)
def test_both_ignore_files_count(tmp_path, files, sent):
    tree = {"src/app.py": "", "tests/t.py": "", "a.log": "", "build/out": "", ".git/HEAD": "", "deploy/Dockerfile": ""}
    write(tmp_path, {**tree, **files})
    included = set(included_files(tmp_path, "deploy/Dockerfile"))
    assert "deploy/Dockerfile" in included, "the builder always needs it"
    if sent is not None:
        assert included - {"deploy/Dockerfile"} == sent
    elif ".gitignore" in files:
        assert "a.log" in included, "the last pattern counts, included or not"
        assert "tests/t.py" not in included
    else:
        assert "tests/t.py" in included, "a Dockerfile's own ignore file takes the place of the other"
        assert "src/app.py" not in included


@given(TREES, LINES, LINES)
def test_any_ignore_files_leave_a_part_of_what_is_there_and_the_dockerfile(tmp_path_factory, tree, docker, gcloud):
    root = write(tmp_path_factory.mktemp("tree"), {**without_clashes(tree), "Dockerfile": "FROM x"})
    (root / ".dockerignore").write_text("\n".join(docker))
    (root / ".gcloudignore").write_text("\n".join(gcloud))
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    try:
        included = included_files(root, "Dockerfile")
    except BuildError:
        return
    assert {"Dockerfile", ".dockerignore"} <= set(included) <= files
    assert included == sorted(set(included))
