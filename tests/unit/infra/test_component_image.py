"""What the builder is told for each kind of source that is built."""

import pulumi
import pytest

from mcpfleet_local_cloud.plugins.docker_build.context import list_files
from pulumi_mcpfleet.components import image
from pulumi_mcpfleet.components.foundation import Foundation, FoundationInFleet
from pulumi_mcpfleet.components.mcp_server import McpServer, ServerInFleet
from pulumi_mcpfleet.fleet import FleetError, parse_fleet
from pulumi_mcpfleet.sources.checkout import Checkout
from pulumi_mcpfleet.sources.lock import Lock
from pulumi_mcpfleet.sources.stdio import StdioSpec as StdioServer
from tests.corpus.corpus import CASES
from tests.corpus.node import NPM_WORKSPACE

IMAGE = "docker-build:index:Image"
SERVICE = "gcp:cloudrunv2/service:Service"
COMMIT = "c0ffee" + "0" * 34
GIT = {"url": "https://git.acme.dev/weather.git", "ref": "v1"}


@pytest.fixture
def root(tmp_path):
    """The folder of Pulumi.yaml, with a Python server in ./weather."""
    for name, text in {
        "weather/requirements.txt": "mcp==2.3.0\n",
        "weather/server.py": "",
        "own/deploy/Dockerfile": "FROM scratch",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def build(deploy, root):
    def program(source, keys):
        fleet = parse_fleet({"region": "europe-west1", "servers": {"echo": {"source": source, **keys}}}, root=root)
        foundation = Foundation.in_fleet("fleet", FoundationInFleet(project="p", region="europe-west1", root=root))
        McpServer.in_fleet(
            "echo",
            ServerInFleet(
                project="p", regions=fleet.all_regions, foundation=foundation, spec=fleet.servers["echo"], labels={}
            ),
        )

    return lambda source, **keys: deploy(lambda: program(source, keys))


@pytest.fixture
def fetched(root, monkeypatch):
    """A git repository that holds a Python server in ./server; gives the calls that fetched it."""
    calls = []

    def checkout(url, ref, place, token=None, *, submodules=False, lfs=False):
        calls.append((url, ref, token))
        folder = place / "fetched"
        (folder / "server").mkdir(parents=True, exist_ok=True)
        (folder / "server" / "server.py").write_text("")
        (folder / "server" / "requirements.txt").write_text("mcp==2.3.0\n")
        return Checkout(folder, COMMIT, "the tag v1 is")

    monkeypatch.setattr(image, "checkout", checkout)
    return calls


def test_a_folder_without_a_dockerfile_is_built_by_one_that_is_made(build):
    inputs = build({"folder": "./weather", "build_args": {"BASE_IMAGE": "b"}}).one(IMAGE).inputs
    assert inputs["context"] == {"location": "./weather"}
    assert 'CMD ["python", "server.py"]' in inputs["dockerfile"]["inline"]
    assert inputs["buildArgs"] == {"BASE_IMAGE": "b"}


def test_a_folder_is_built_by_the_dockerfile_that_was_made_when_the_config_was_checked(deploy, root):
    raw = {"region": "europe-west1", "servers": {"echo": {"source": {"folder": "./weather"}}}}
    spec = parse_fleet(raw, root=root).servers["echo"]
    (root / "weather" / "server.py").unlink()  # of which another one would come to nothing

    def program():
        foundation = Foundation.in_fleet("fleet", FoundationInFleet(project="p", region="europe-west1", root=root))
        McpServer.in_fleet(
            "echo", ServerInFleet(project="p", regions=["europe-west1"], foundation=foundation, spec=spec)
        )

    assert 'CMD ["python", "server.py"]' in deploy(program).one(IMAGE).inputs["dockerfile"]["inline"]


def test_a_dockerfile_of_its_own_wins(build):
    inputs = build({"folder": "./own", "dockerfile": "deploy/Dockerfile"}).one(IMAGE).inputs
    assert inputs["dockerfile"] == {"location": "./own/deploy/Dockerfile"}


def test_the_users_keys_decide(build):
    inputs = build({"folder": "./weather", "start": ["python", "-m", "x"], "apt": ["git"]}).one(IMAGE).inputs
    assert 'CMD ["python", "-m", "x"]' in inputs["dockerfile"]["inline"]
    assert "apt-get install -y --no-install-recommends git" in inputs["dockerfile"]["inline"]


def test_a_git_repository_is_built_at_the_commit_which_the_image_names(build, fetched):
    inputs = build({"git": {**GIT, "dir": "server"}}).one(IMAGE).inputs
    assert inputs["context"] == {"location": ".mcpfleet/sources/fetched/server"}
    assert inputs["labels"] == {
        "org.opencontainers.image.revision": COMMIT,
        "org.opencontainers.image.source": GIT["url"],
    }
    assert fetched == [(GIT["url"], "v1", None)]


def test_a_folder_of_a_repository_that_is_a_member_of_a_workspace_is_built_from_the_workspaces_top(build, monkeypatch):
    def fetched(url, ref, place, token=None, *, submodules=False, lfs=False):
        for name, content in NPM_WORKSPACE.items():
            file = place / "fetched" / "js" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        return Checkout(place / "fetched", COMMIT, "the tag v1 is")

    monkeypatch.setattr(image, "checkout", fetched)
    inputs = build({"git": {**GIT, "dir": "js/packages/server"}}).one(IMAGE).inputs
    assert inputs["context"] == {"location": ".mcpfleet/sources/fetched/js"}
    assert "RUN npm ci\nRUN cd packages/core && npm run build\n" in inputs["dockerfile"]["inline"]
    assert "WORKDIR /app/packages/server\n" in inputs["dockerfile"]["inline"]


@pytest.mark.parametrize(
    ("ref", "version"),
    [("v1.2.0", "1.2.0"), ("weather/v2", "2"), ("main", f"0.0.0+g{COMMIT[:9]}"), (COMMIT, f"0.0.0+g{COMMIT[:9]}")],
)
def test_a_version_that_git_tags_would_say_is_that_of_the_ref(build, monkeypatch, ref, version):
    def fetched(url, ref, place, token=None, *, submodules=False, lfs=False):
        for name, content in CASES["a version from git's tags, by hatch-vcs"].files.items():
            file = place / "fetched" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        return Checkout(place / "fetched", COMMIT, "it is")

    monkeypatch.setattr(image, "checkout", fetched)
    inputs = build({"git": {**GIT, "ref": ref}}).one(IMAGE).inputs
    assert f"\nARG SETUPTOOLS_SCM_PRETEND_VERSION={version}\n" in inputs["dockerfile"]["inline"]


def test_a_version_that_git_tags_would_say_is_what_they_say_of_a_folder(build, root, monkeypatch):
    for name, content in CASES["a version from git's tags, by hatch-vcs"].files.items():
        (root / "tagged" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "tagged" / name).write_text(content)
    monkeypatch.setattr("pulumi_mcpfleet.sources.git.describe", lambda folder: "v1.2.0-3-gc0ffee000")
    dockerfile = build({"folder": "./tagged"}).one(IMAGE).inputs["dockerfile"]["inline"]
    assert "\nARG SETUPTOOLS_SCM_PRETEND_VERSION=1.2.1.dev3+gc0ffee000\nCOPY . .\n" in dockerfile


def test_a_secret_of_a_build_goes_to_buildkit_and_into_no_layer(build):
    references = {"NPM_TOKEN": {"secret": "npm-token", "version": "1"}}
    built = build({"folder": "./weather", "build_secrets": references}).one(IMAGE)
    assert built.inputs["secrets"] == {"NPM_TOKEN": "s3cr3t"}
    assert "secrets" in built.secrets
    (line,) = (line for line in built.inputs["dockerfile"]["inline"].splitlines() if "-r requirements.txt" in line)
    assert line.startswith('RUN --mount=type=secret,id=NPM_TOKEN,required=true export NPM_TOKEN="$(cat /run/secrets/')
    assert "s3cr3t" not in built.inputs["dockerfile"]["inline"]


def test_a_dockerfile_of_its_own_may_have_a_stage_a_port_and_arguments(build, root):
    (root / "weather" / "Dockerfile").write_text("FROM scratch AS prod\n")
    plan = build({"build": "./weather", "target": "prod", "port": 5000, "args": ["--http"]})
    assert plan.one(IMAGE).inputs["target"] == "prod"
    (container,) = plan.one(SERVICE).inputs["template"]["containers"]
    assert container["ports"]["containerPort"] == 5000
    assert container["args"] == ["--http"]


@pytest.mark.parametrize("source", [{"folder": "./own/deploy"}, {"git": {**GIT, "dir": "server"}}])
def test_arguments_take_the_place_of_a_dockerfiles_own(build, fetched, root, source):
    checkout = root / ".mcpfleet" / "sources" / "fetched" / "server"
    checkout.mkdir(parents=True)
    (checkout / "Dockerfile").write_text("FROM scratch\n")
    (container,) = build({**source, "args": ["--http"]}).one(SERVICE).inputs["template"]["containers"]
    assert container["args"] == ["--http"]


def test_arguments_of_a_dockerfile_that_is_made_stand_in_it_alone(build):
    plan = build({"folder": "./weather", "args": ["--http"]})
    assert 'CMD ["python", "server.py", "--http"]' in plan.one(IMAGE).inputs["dockerfile"]["inline"]
    (container,) = plan.one(SERVICE).inputs["template"]["containers"]
    assert "args" not in container


def test_folders_that_may_be_written_are_volumes_in_memory(build):
    plan = build({"folder": "./weather", "writable": ["/app/data"]})
    template = plan.one(SERVICE).inputs["template"]
    (volume,) = template["volumes"]
    assert volume["emptyDir"] == {"medium": "MEMORY", "sizeLimit": "512Mi"}
    (container,) = template["containers"]
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/app/data"}]
    assert '"python", "server.py"]' in plan.one(IMAGE).inputs["dockerfile"]["inline"]


def test_a_token_goes_from_secret_manager_to_git_and_into_no_resource(build, fetched):
    plan = build({"git": {**GIT, "dir": "server", "token": {"secret": "git-token", "version": "1"}}})
    assert {token for _, _, token in fetched} == {"s3cr3t"}
    assert "s3cr3t" not in str(plan.resources)


def test_what_cannot_be_decided_in_a_repository_stops_the_deployment_under_its_path(build, fetched):
    with pytest.raises(pulumi.RunError, match=r"^fleet\.servers\.echo\.source\.dockerfile: there is no Dockerfile"):
        build({"git": GIT})
    with pytest.raises(pulumi.RunError, match=r"^fleet\.servers\.echo\.source\.git\.dir: there is no no-such in"):
        build({"git": {**GIT, "dir": "no-such"}})


@pytest.mark.parametrize("folder", ["/etc", "../../..", "loop"])
def test_a_folder_of_a_repository_that_is_a_link_out_of_it_is_not_built(build, fetched, root, folder):
    place = root / ".mcpfleet" / "sources" / "fetched"
    place.mkdir(parents=True)
    (place / "loop").symlink_to(folder)
    with pytest.raises(
        pulumi.RunError, match=r"source\.git\.dir: loop leads out of https://git.acme.dev/weather.git at v1"
    ):
        build({"git": {**GIT, "dir": "loop"}})


def test_a_folder_of_a_repository_that_is_a_link_within_it_is_built_where_it_is(build, fetched, root):
    place = root / ".mcpfleet" / "sources" / "fetched"
    place.mkdir(parents=True)
    (place / "link").symlink_to("server")
    inputs = build({"git": {**GIT, "dir": "link"}}).one(IMAGE).inputs
    assert inputs["context"] == {"location": ".mcpfleet/sources/fetched/server"}


@pytest.mark.parametrize("name", ["Dockerfile", ".dockerignore", ".gitignore", "Dockerfile.dockerignore"])
def test_a_folder_whose_files_have_become_links_since_is_not_built(build, root, name):
    place = root / "own" / "deploy"
    (place / name).unlink(missing_ok=True)
    (place / name).symlink_to(root / "weather" / "server.py")
    with pytest.raises((pulumi.RunError, FleetError), match=f"{name} is not a plain file of the source"):
        build({"build": "./own/deploy"})


@pytest.mark.parametrize(("keys", "pulled"), [("pull", True), ("refuse", False), ("pointers", False)])
def test_large_files_are_pulled_where_the_user_says_so(build, fetched, root, monkeypatch, keys, pulled):
    lfs_values, plain = [], image.checkout
    monkeypatch.setattr(
        image, "checkout", lambda *arguments, lfs, **options: lfs_values.append(lfs) or plain(*arguments, **options)
    )
    build({"git": {**GIT, "dir": "server", "lfs": keys}})
    assert set(lfs_values) == {pulled}


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def test_a_folder_with_files_that_git_lfs_has_not_fetched_is_refused_until_the_user_says_so(build, root):
    for name in ("models/big.bin", "node_modules/x/big.bin"):
        (root / "weather" / name).parent.mkdir(parents=True)
        (root / "weather" / name).write_text(POINTER)
    with pytest.raises(FleetError) as refused:
        build({"folder": "./weather"})
    assert str(refused.value) == (
        "fleet.servers.echo.source.lfs: models/big.bin in Git LFS are not fetched: only the text that points to each is"
        " there; run git lfs pull in ./weather, or write lfs: pointers, to build without"
    )
    assert build({"folder": "./weather", "lfs": "pointers"}).one(IMAGE)
    (root / "weather" / "models" / "big.bin").write_text("fetched")
    assert build({"folder": "./weather"}).one(IMAGE)


def test_a_git_source_with_files_that_git_lfs_has_not_fetched_says_how_they_are_pulled(build, fetched, root):
    place = root / ".mcpfleet" / "sources" / "fetched" / "server"
    place.mkdir(parents=True)
    (place / "big.bin").write_text(POINTER)
    with pytest.raises(pulumi.RunError, match=r"git\.lfs: big\.bin in Git LFS .*; write lfs: pull, to fetch them with"):
        build({"git": {**GIT, "dir": "server"}})
    assert build({"git": {**GIT, "dir": "server", "lfs": "pointers"}}).one(IMAGE)


def test_submodules_are_fetched_where_the_user_says_so_and_what_was_left_out_is_said(build, root, monkeypatch):
    fetches, folder = [], root / ".mcpfleet" / "sources" / "fetched"
    folder.mkdir(parents=True)
    (folder / "requirements.txt").write_text("")
    (folder / "server.py").write_text("")

    def fetched(url, ref, place, token=None, *, submodules=False, lfs=False):
        fetches.append(submodules)
        return Checkout(folder, COMMIT, "the tag v1 is", ("\x1b[2Jits submodules are not fetched (`git.submodules`)",))

    monkeypatch.setattr(image, "checkout", fetched)
    infos = []
    monkeypatch.setattr(pulumi, "info", lambda info, _: infos.append(info))
    build({"git": GIT})
    build({"git": {**GIT, "submodules": True}})
    assert set(fetches) == {False, True}
    assert f"echo: {GIT['url']}: \\x1b[2Jits submodules are not fetched (`git.submodules`)" in infos


@pytest.mark.parametrize(
    ("server", "line"),
    [
        ({"npm": "@a/b@1.2.3"}, '"@a/b@1.2.3"'),
        ({"pypi": "a-b[x]==1.2.3"}, '"a-b[x]==1.2.3"'),
        ({"image": "docker.io/acme/tools:1", "command": ["acme", "--stdio"]}, "FROM docker.io/acme/tools:1\n"),
    ],
)
def test_a_stdio_server_is_built_in_the_bridges_folder_and_probed_at_its_health_path(build, server, line):
    plan = build({"stdio": server})
    inputs = plan.one(IMAGE).inputs
    assert inputs["context"] == {"location": ".mcpfleet/sources/bridge-echo"}
    assert inputs["dockerfile"]["inline"].startswith("ARG BASE_IMAGE=")
    assert line in inputs["dockerfile"]["inline"]
    container = plan.container()
    assert container["startupProbe"]["httpGet"]["path"] == container["livenessProbe"]["httpGet"]["path"] == "/health"


def test_a_folder_that_speaks_stdio_is_built_from_a_copy_that_holds_the_bridge(build, root):
    (root / "weather" / ".dockerignore").write_text("**\n!*.py\n!requirements.txt")
    (root / "weather" / ".env").write_text("SECRET=1")
    plan = build({"folder": "./weather", "speaks": "stdio"})
    inputs = plan.one(IMAGE).inputs
    copy = root / inputs["context"]["location"]
    assert inputs["context"]["location"] == ".mcpfleet/sources/with-bridge-echo"
    files = {file.relative_to(copy).as_posix() for file in copy.rglob("*") if file.is_file()}
    bridge = {name for name in files if name.startswith(".mcpfleet-bridge/")}
    assert files - bridge == {".dockerignore", "requirements.txt", "server.py"}
    assert {f".mcpfleet-bridge/{name}" for name in ("requirements.txt", "mcpfleet_bridge/edge.py")} <= bridge
    assert (copy / ".dockerignore").read_text().endswith("\n!.mcpfleet-bridge\n")
    assert not (root / "weather" / ".mcpfleet-bridge").exists()
    assert plan.container()["startupProbe"]["httpGet"]["path"] == "/health"


WEATHER = {"requirements.txt": "mcp==2.3.0\n", "server.py": "", ".mcpfleet/local/key.pem": "a private key"}


def files_sent_to_docker(root, inputs):
    """The paths of the context that Docker gets: those that the ignore file of the Dockerfile doesn't exclude."""
    context, dockerfile = (inputs[key].get("location") for key in ("context", "dockerfile"))
    return set(list_files(root / context, str(root / dockerfile) if dockerfile else ""))


@pytest.fixture
def write(root):
    def write(files):
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)

    return write


@pytest.mark.parametrize("ignored", [None, "*.md\n", "**/.mcpfleet\n!**\n", "!.mcpfleet", ""])
@pytest.mark.parametrize("dockerfile", [None, "Dockerfile", "deploy/Dockerfile"])
def test_the_keys_of_the_projects_local_cloud_are_in_no_build_context(build, root, write, dockerfile, ignored):
    write(WEATHER | ({dockerfile: "FROM scratch\nCOPY . ."} if dockerfile else {}))
    write({".dockerignore": ignored} if ignored is not None else {})
    inputs = build({"folder": ".", **({"dockerfile": dockerfile} if dockerfile else {})}).one(IMAGE).inputs
    assert inputs["context"] == {"location": "."}
    sent = files_sent_to_docker(root, inputs)
    assert not [name for name in sent if ".mcpfleet" in name]
    assert {"server.py", "requirements.txt"} <= sent
    text = (root / inputs["dockerfile"]["location"]).read_text()
    assert ("COPY . ." in text) if dockerfile else ('CMD ["python", "server.py"]' in text)


def test_the_ignore_file_of_a_dockerfile_still_counts_where_the_folder_has_a_local_cloud(build, root, write):
    write({**WEATHER, "Dockerfile": "FROM scratch", "Dockerfile.dockerignore": "*\n!server.py", ".dockerignore": "a"})
    inputs = build({"folder": ".", "dockerfile": "Dockerfile"}).one(IMAGE).inputs
    assert files_sent_to_docker(root, inputs) == {"server.py"}


def test_a_folder_whose_ignore_file_excludes_the_local_cloud_is_built_as_it_is(build, write):
    write({**WEATHER, ".dockerignore": "**/.mcpfleet\n*.md"})
    assert "inline" in build({"folder": "."}).one(IMAGE).inputs["dockerfile"]


def test_the_keys_of_a_local_cloud_in_the_servers_own_folder_are_in_no_build_context(build, root, write):
    write({"weather/.mcpfleet/key.pem": "a private key"})
    sent = files_sent_to_docker(root, build({"folder": "./weather"}).one(IMAGE).inputs)
    assert sent == {"requirements.txt", "server.py"}


SESSIONS = "with sessions: stateful, each session has a process of its own"


@pytest.mark.parametrize(
    ("source", "keys", "expected"),
    [
        (
            {"stdio": {"npm": "@playwright/mcp@0.0.75"}},
            {},
            f"a browser, because one process answers all of them; {SESSIONS}",
        ),
        ({"stdio": {"npm": "@modelcontextprotocol/server-sequential-thinking@1.0.0"}}, {}, "a history"),
        ({"stdio": {"npm": "@modelcontextprotocol/server-memory@1.0.0"}}, {}, "deploy a server for each group"),
        ({"stdio": {"pypi": "mcp-server-sqlite==1"}}, {}, "deploy a server for each group"),
        ({"stdio": {"pypi": "mcp-server-time==1"}}, {}, None),
        ({"stdio": {"npm": "@playwright/mcp@0.0.75"}}, {"sessions": "stateful", "max_instances": 1}, None),
        (
            {"folder": "./weather", "speaks": "stdio"},
            {},
            f"a browser, because one process answers all of them; {SESSIONS}",
        ),
        ({"folder": "./weather"}, {}, "a browser, because one process answers all of them; if the server keeps it by"),
    ],
)
def test_a_preview_says_which_state_callers_share_and_the_way_out(build, root, monkeypatch, source, keys, expected):
    (root / "weather" / "requirements.txt").write_text("mcp==2.3.0\nplaywright>=1.50\n")
    infos = []
    monkeypatch.setattr(pulumi, "info", lambda text, _resource=None: infos.append(text))
    build(source, **keys)
    hints = [text for text in infos if "its callers share" in text]
    assert len(hints) == (expected is not None)
    if expected is not None:
        assert hints[0].startswith("echo: its callers share ")
        assert expected in hints[0]


# --- what the config refuses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ({"folder": "./nowhere"}, "source.folder: there is no nowhere beside Pulumi.yaml"),
        ({"folder": "/srv"}, "source.folder: '/srv' is not a relative path; write"),
        ({"folder": "./own"}, "source.dockerfile: there is no Dockerfile, pyproject.toml"),
        ({"folder": "./weather", "installer": "uv"}, "source.installer: uv needs uv.lock"),
        ({"folder": "./weather", "dockerfile": "../x"}, "source.dockerfile: '../x' is not a path within the source"),
        ({"folder": "./weather", "apt": ["git; rm"]}, "source.apt[0]: 'git; rm' is not a package's name"),
        ({"git": {"url": "weather", "ref": "v1"}}, "source.git.url: 'weather' is not the address of a repository"),
        (
            {"git": {**GIT, "url": "http://acme.dev/x.git"}},
            "source.git.url: 'http://acme.dev/x.git' is not encrypted, so others",
        ),
        (
            {"git": {**GIT, "url": "git://127.0.0.1.evil.dev/x"}},
            "source.git.url: 'git://127.0.0.1.evil.dev/x' is not encrypted",
        ),
        ({"git": {**GIT, "url": "file:///srv/x.git"}}, "source.git.url: 'file:///srv/x.git' reads a folder of this"),
        (
            {"git": {**GIT, "url": "https://h/x?private_token=a"}},
            "source.git.url: 'https://h/x?private_token=a' is not",
        ),
        (
            {"git": {**GIT, "url": "ssh://-oProxyCommand=id/x"}},
            "source.git.url: 'ssh://-oProxyCommand=id/x' is not the",
        ),
        ({"git": {**GIT, "url": "-u@acme.dev:x.git"}}, "source.git.url: '-u@acme.dev:x.git' is not the address"),
        ({"git": {**GIT, "url": "git@acme.dev:-x"}}, "source.git.url: 'git@acme.dev:-x' is not the address"),
        ({"git": {**GIT, "url": "https://h/x\u001b[2J"}}, "source.git.url: 'https://h/x\\x1b[2J' is not the address"),
        ({"git": {**GIT, "url": "ext::sh -c id"}}, "source.git.url: 'ext::sh -c id' is not the address"),
        ({"build": "./linked"}, "source.build: ./linked is a symbolic link that leads to /etc"),
        ({"build": "./own/linked"}, "source.build: in own/linked, Dockerfile is not a plain file of the source"),
        ({"folder": "./linked"}, "source.folder: ./linked is a symbolic link that leads to /etc"),
        ({"folder": "./weather", "apt": ["git-"]}, "source.apt[0]: 'git-' is not a package's name"),
        (
            {"folder": "./weather", "build_args": {"PIP_TOKEN": "abc"}},
            "source.build_args.PIP_TOKEN: looks like a secret, which everyone who has the image could read",
        ),
        (
            {"build": "./own/deploy", "build_args": {"INDEX": "https://u:p@pypi.acme.dev/simple"}},
            "source.build_args.INDEX: looks like a secret",
        ),
        (
            {"stdio": {"pypi": "a==1"}, "build_args": {"KEY": "ghp_" + "a" * 36}},
            "source.build_args.KEY: looks like a secret",
        ),
        ({"stdio": {"pypi": "a==1", "args": ["--api-key=abc"]}}, "source.stdio.args[0]: looks like a secret"),
        ({"folder": "./weather", "start": ["a", "ghp_" + "a" * 36]}, "source.start[1]: looks like a secret"),
        ({"image": "a/b:1", "args": ["x", "--token=abc"]}, "source.args[1]: looks like a secret"),
        ({"git": {**GIT, "ref": "--upload-pack=x"}}, "source.git.ref: '--upload-pack=x' is not a commit"),
        (
            {"git": {"url": "https://u:p@h/x.git", "ref": "a"}},
            "source.git.url: holds a password or a token; remove all up to @, and write token: {secret: …, version: …}",
        ),
        (
            {"git": {"url": "ssh://git@h/x.git", "ref": "a", "token": {"secret": "s", "version": "1"}}},
            "source.git.token: a token is sent to https:// addresses only",
        ),
        ({"stdio": {}}, "source.stdio: names no package; add npm:"),
        ({"stdio": {"npm": "a@1.0.0", "pypi": "a==1"}}, "source.stdio: has npm and pypi together; keep only one"),
        ({"stdio": {"npm": "a"}}, "source.stdio.npm: 'a' is not a package with a version; write NAME@VERSION"),
        ({"stdio": {"npm": "a@^1"}}, "source.stdio.npm: 'a@^1' is not a package with a version"),
        ({"stdio": {"npm": 'a@1" && rm'}}, "source.stdio.npm: "),
        ({"stdio": {"pypi": "a>=1"}}, "source.stdio.pypi: 'a>=1' is not a package with a version; write NAME==VERSION"),
        ({"stdio": {"image": "a/b"}}, "source.stdio.command: missing; add the command that starts the server in the"),
    ],
)
def test_a_mistake_in_a_source_is_one_line_under_its_path(root, source, line):
    (root / "linked").symlink_to("/etc")
    (root / "own" / "linked").mkdir()
    (root / "own" / "linked" / "Dockerfile").symlink_to("/etc/passwd")
    with pytest.raises(FleetError) as refused:
        parse_fleet({"region": "europe-west1", "servers": {"echo": {"source": source}}}, root=root)
    (only,) = str(refused.value).splitlines()
    assert only.startswith(f"fleet.servers.echo.{line}")


@pytest.mark.parametrize("source", [{"stdio": {"pypi": "a==1"}}, {"git": GIT, "speaks": "stdio"}])
def test_a_stdio_server_is_not_opened_to_everybody_by_an_access_that_the_bridge_does_not_check(source):
    server = {"source": source, "access": {"oauth": {"issuer": "https://login.acme.dev"}}}
    with pytest.raises(FleetError, match=r"^fleet\.servers\.echo\.access: with oauth the server itself must"):
        parse_fleet({"region": "europe-west1", "servers": {"echo": server}})


def test_a_package_is_installed_from_its_lock_where_there_is_one(build, root):
    lock = Lock(StdioServer(pypi="a==1"))
    (root / lock.folder).mkdir(parents=True)
    (root / lock.folder / "requirements.txt").write_text("a==1 --hash=sha256:0\n")
    source = {"stdio": {"pypi": "a==1", "args": ["--x"]}}
    inputs = build(source).one(IMAGE).inputs
    assert "uv pip sync --quiet --require-hashes" in inputs["dockerfile"]["inline"]
    assert (root / inputs["context"]["location"] / "lock" / "requirements.txt").read_text() == "a==1 --hash=sha256:0\n"
    inputs = build({"stdio": {**source["stdio"], "bounds": ["mcp<2"]}}).one(IMAGE).inputs
    assert "uv pip install" in inputs["dockerfile"]["inline"]
    assert not (root / inputs["context"]["location"] / "lock").exists()
