"""`mcpfleet init` and `mcpfleet check`, as a user types them. uv, Docker and the network are not there."""

import json
import re
import subprocess
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import mcpfleet
from mcpfleet import cli, init, projects, scaffold
from pulumi_mcpfleet.fleet import deprecated
from pulumi_mcpfleet.projects import check_file, check_files

TEMPLATE = Path(mcpfleet.__file__).parent / "template"
OF_HELLO = {
    ".gitignore", "AGENTS.md", "Pulumi.dev.yaml", "Pulumi.local.yaml", "Pulumi.prod.yaml", "Pulumi.yaml", "README.md",
    "__main__.py", "pyproject.toml", "servers/hello/pyproject.toml", "servers/hello/server.py",
    "servers/hello/tests/test_hello.py", "tests/test_fleet.py",
}  # fmt: skip


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the command as a shell would, without uv; gives (exit code, output, errors)."""
    monkeypatch.setenv("PATH", str(tmp_path / "no programs"))
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["mcpfleet", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        printed = capsys.readouterr()
        return exit_info.value.code or 0, printed.out, printed.err

    return run


@pytest.fixture
def uv(monkeypatch):
    """A uv that locks; `words` are its calls, `stderr` makes it fail."""
    state = SimpleNamespace(words=[], stderr="")

    def run_program(words, seconds, folder):
        state.words.append(words)
        if not state.stderr:
            (folder / "uv.lock").write_text("locked")
        return subprocess.CompletedProcess(words, int(bool(state.stderr)), "", state.stderr)

    monkeypatch.setattr(init, "run_program", run_program)
    monkeypatch.setenv("UV", "/usr/bin/uv")
    return state


def files_of(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def source_of(file):
    (server,) = yaml.safe_load(file.read_text())["config"]["mcpfleet:fleet"]["servers"].values()
    return server["source"]


def test_a_new_project_is_complete_and_each_file_is_listed_with_its_purpose(run, tmp_path):
    code, out, _ = run("init", "acme-mcp", "--yes")
    assert code == 0
    assert files_of(tmp_path / "acme-mcp").keys() == OF_HELLO
    lines = [line for name in OF_HELLO for line in out.splitlines() if line.startswith(f"  {name} ")]
    assert all(re.fullmatch(r"  \S+ {2,}\w.*", line) for line in lines)
    assert len(lines) == len(OF_HELLO)
    assert out.splitlines()[-2:] == [
        "  cd acme-mcp",
        "  uv run mcpfleet local up   # deploys the fleet on this machine, and calls its servers; needs Docker",
    ]
    assert [*tmp_path.iterdir()] == [tmp_path / "acme-mcp"]


def test_the_fleet_of_a_new_project_is_valid_in_every_environment(run, tmp_path):
    run("init", "acme-mcp", "--yes")
    result = check_files(tmp_path / "acme-mcp")
    assert [file.name for file in result] == ["Pulumi.dev.yaml", "Pulumi.local.yaml", "Pulumi.prod.yaml"]
    assert [file.mistakes for file in result] == [(), (), ()]
    assert run("check", "--cwd", tmp_path / "acme-mcp")[:2] == (
        0,
        "✓ Pulumi.dev.yaml  1 server\n✓ Pulumi.local.yaml  1 server\n✓ Pulumi.prod.yaml  1 server\n",
    )


def test_on_google_cloud_a_new_project_has_no_invokers(run, tmp_path):
    run("init", "a1", "--yes")
    run("init", "a2", "--yes", "--invoker", "group:mcp@acme.dev", "--invoker", "user:ada@acme.dev")
    for stack in ("dev", "prod"):
        access = [
            check_file(tmp_path / name / f"Pulumi.{stack}.yaml").fleet.servers["hello"].access for name in ("a1", "a2")
        ]
        assert [list(item.iam.invokers) for item in access] == [[], ["group:mcp@acme.dev", "user:ada@acme.dev"]]


def test_a_second_init_changes_nothing(run, tmp_path):
    run("init", "acme-mcp", "--yes")
    (tmp_path / "acme-mcp" / "README.md").write_text("mine")
    content_before = files_of(tmp_path / "acme-mcp")
    code, out, _ = run("init", "acme-mcp", "--yes")
    assert code == 0
    assert "Nothing was changed" in out
    assert files_of(tmp_path / "acme-mcp") == content_before


def test_in_an_existing_project_init_writes_missing_files_and_no_server(run, tmp_path):
    run("init", "acme-mcp", "--yes", "--server", "npm:weather@1.0.0")
    (tmp_path / "acme-mcp" / "AGENTS.md").unlink()
    code, out, _ = run("init", "acme-mcp", "--yes")
    assert code == 0
    assert re.search(r"AGENTS\.md +how to go on, for coding agents$", out, re.MULTILINE)
    assert re.search(r"README\.md .*\(was there; not changed\)$", out, re.MULTILINE)
    assert files_of(tmp_path / "acme-mcp").keys() == {name for name in OF_HELLO if not name.startswith("servers/")}


def test_an_existing_repository_keeps_its_files_and_gets_lines_in_gitignore(run, tmp_path):
    (tmp_path / "weather").mkdir()
    (tmp_path / "weather" / "requirements.txt").write_text("mcp==2.3.0\n")
    (tmp_path / "weather" / "server.py").write_text(
        'from mcp.server.mcpserver import MCPServer\nMCPServer("x").run("sse")\n'
    )
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / ".gitignore").write_text("dist\n.venv")
    code, out, _ = run("init", ".", "--yes", "--server", "weather", "--name", "acme")
    assert code == 0
    assert (tmp_path / "README.md").read_text() == "mine"
    assert (tmp_path / ".gitignore").read_text() == "dist\n.venv\n.mcpfleet/\n__pycache__/\n.pytest_cache/\n"
    assert re.search(r"\.gitignore .*\(was there; lines added\)", out)
    assert source_of(tmp_path / "Pulumi.dev.yaml") == {"folder": "./weather"}
    assert source_of(tmp_path / "Pulumi.local.yaml")["build_args"] == {"BASE_IMAGE": "mcpfleet/base:python3.13"}
    assert "Python (`language`)" in out


PYTHON_SERVER = {
    "pyproject.toml": '[project]\nname = "weather"\nversion = "1"\ndependencies = ["mcp==2.3.0"]\n',
    "server.py": 'from mcp.server.mcpserver import MCPServer\nMCPServer("x").run("streamable-http")\n',
}


def write_files(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return files_of(folder)


@pytest.mark.parametrize("more", [{}, {"__main__.py": "import server\n"}])
def test_beside_a_python_server_the_project_gets_a_folder_of_its_own_with_that_server(run, tmp_path, more):
    root = tmp_path / "weather-mcp"
    content = write_files(root, PYTHON_SERVER | more)
    code, out, _ = run("init", "weather-mcp", "--yes")
    assert code == 0
    assert "weather-mcp/fleet becomes the project, because pyproject.toml" in out
    assert "  cd weather-mcp/fleet\n" in out
    assert {name: text for name, text in files_of(root).items() if not name.startswith("fleet/")} == content
    assert source_of(root / "fleet" / "Pulumi.dev.yaml") == {"folder": ".."}
    assert yaml.safe_load((root / "fleet" / "Pulumi.yaml").read_text())["name"] == "weather-mcp"
    assert not [mistake for file in check_files(root / "fleet") for mistake in file.mistakes]


def test_beside_a_python_server_the_command_changes_nothing_the_second_time(run, tmp_path):
    write_files(tmp_path, PYTHON_SERVER)
    run("init", ".", "--yes", "--name", "acme")
    content = files_of(tmp_path)
    code, out, _ = run("init", ".", "--yes")
    assert (code, files_of(tmp_path)) == (0, content)
    assert "Nothing was changed" in out


def test_beside_a_python_server_the_first_server_of_the_fleet_can_be_another_one(run, tmp_path):
    write_files(tmp_path, PYTHON_SERVER)
    assert run("init", ".", "--yes", "--name", "acme", "--server", "hello")[0] == 0
    assert source_of(tmp_path / "fleet" / "Pulumi.dev.yaml") == {"folder": "./servers/hello"}


def test_a_server_in_the_projects_own_folder_leaves_the_project_out_of_its_image(run, tmp_path):
    (tmp_path / "package.json").write_text('{"name": "weather", "scripts": {"start": "node ."}}')
    (tmp_path / "package-lock.json").write_text('{"lockfileVersion": 3, "packages": {}}')
    code, _, err = run("init", ".", "--yes", "--server", ".", "--name", "acme")
    assert (code, err) == (0, "")
    assert "**/.mcpfleet" in (tmp_path / ".dockerignore").read_text().splitlines()


def test_the_decisions_about_the_server_are_printed(run, tmp_path):
    code, out, _ = run("init", "acme-mcp", "--yes", "--server", "npm:@acme/mcp-server-weather@1.2.0")
    assert code == 0
    assert 'Server weather: {stdio: {npm: "@acme/mcp-server-weather@1.2.0"}}' in out
    assert "behind the bridge" in out
    assert "! Pulumi.prod.yaml: fleet.servers.weather.source.stdio.npm: " in out
    text = (tmp_path / "acme-mcp" / "README.md").read_text() + (tmp_path / "acme-mcp" / "AGENTS.md").read_text()
    assert "hello" not in text
    assert "verify --call weather/TOOL" in text


@pytest.mark.parametrize(
    "word", ["npm:@acme/a-b@1.0.0", "pypi:a-b[http]==1.0", "docker.io/acme/toolbox:1", "localhost:5000/a/b:1"]
)
@pytest.mark.parametrize("invokers", [[], ["--invoker", "serviceAccount:a@b.iam.gserviceaccount.com"]])
def test_every_kind_of_server_is_in_the_fleet_of_every_environment(run, tmp_path, word, invokers):
    assert run("init", "acme", "--yes", "--server", word, "--region", "us-east4", *invokers)[0] == 0
    for file in check_files(tmp_path / "acme"):
        assert not file.mistakes or file.name == "Pulumi.prod.yaml"
    config = yaml.safe_load((tmp_path / "acme" / "Pulumi.local.yaml").read_text())["config"]
    assert config["mcpfleet:fleet"]["region"] == "us-east4"


# --- asking ---------------------------------------------------------------------------------------------


def test_on_a_terminal_init_asks_for_missing_options(run, monkeypatch, tmp_path):
    requests = []

    def prompt(question, default, **further):
        requests.append(question.partition(" ")[0])
        return {"Who": "user:ada@acme.dev, group:mcp@acme.dev"}.get(requests[-1], default)

    monkeypatch.setattr(init, "is_interactive", lambda: True)
    monkeypatch.setattr("typer.prompt", prompt)
    assert run("init", "acme-mcp", "--region", "us-east4")[0] == 0
    assert requests == ["Name", "First", "Who"]
    fleet = check_file(tmp_path / "acme-mcp" / "Pulumi.dev.yaml").fleet
    assert set(fleet.servers["hello"].access.iam.invokers) == {"user:ada@acme.dev", "group:mcp@acme.dev"}


def test_without_a_terminal_the_error_names_the_option_for_the_defaults(run, tmp_path):
    code, _, err = run("init", "acme-mcp")
    assert code == 2
    assert "Give --yes" in err
    assert [*tmp_path.iterdir()] == []


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["acme mcp"], 2, "'acme mcp' is not a project's name"),
        (["acme", "--name", "-x"], 2, "'-x' is not a project's name"),
        (["acme", "--name", "${PROJECT}"], 2, "is not a project's name"),
        (["acme", "--name", "Pulumi.McpFleet"], 2, "is the name of a package that the project needs"),
        (["a/b/c"], 2, "There is no folder a/b. Make it first"),
        (["acme", "--invoker", "ada@acme.dev"], 2, "is not a member as IAM writes it"),
        (["acme", "--invoker", 'user:a"]}}'], 2, "is not a member as IAM writes it"),
        (["acme", "--invoker", "group:mcp\x1b[31m@acme.dev"], 2, "is not a member as IAM writes it"),
        (["acme", "--invoker", "group:mcp\u202e@acme.dev"], 2, "is not a member as IAM writes it"),
        (["acme", "--server", ""], 2, "--server is empty"),
        ([""], 2, "is empty; name a folder"),
        (["acme", "--region", "Zurich"], 2, "is not a region"),
        (["acme", "--server", "./gone"], 2, "There is no folder ./gone"),
        (["acme", "--server", "npm:weather"], 2, "NAME@VERSION"),
        (["acme", "--server", "npm:weather@1.0.0", "--server-name", "W"], 2, "a name has 2 to 26 characters"),
        (["acme", "--server", "http://example.com/x.git"], 2, "is not encrypted, so others can change what is fetched"),
    ],
)
def test_an_error_is_one_message_and_nothing_is_written(run, tmp_path, arguments, code, message):
    got, out, err = run("init", "--yes", *arguments)
    assert (got, out) == (code, "")
    assert message in err
    assert "Traceback" not in err
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("others", [[], ["pyproject.toml"]])
def test_a_stacks_file_without_a_pulumi_yaml_is_not_overwritten(run, tmp_path, others):
    for name in ("Pulumi.prod.yaml", *others):
        (tmp_path / name).write_text("mine")
    code, _, err = run("init", ".", "--yes", "--name", "acme")
    assert code == 2
    assert ". has Pulumi.prod.yaml" in err
    assert "mcpfleet init fleet --server ." in err
    assert files_of(tmp_path) == dict.fromkeys(["Pulumi.prod.yaml", *others], b"mine")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"pyproject.toml": "mine"}, "pyproject.toml is not valid TOML"),
        ({**PYTHON_SERVER, "fleet": "mine"}, "fleet is not a folder"),
        ({**PYTHON_SERVER, "fleet/pyproject.toml": "mine"}, "fleet has pyproject.toml, and no Pulumi.yaml"),
    ],
)
def test_a_repository_of_a_server_that_cannot_have_a_project_keeps_its_files(run, tmp_path, files, message):
    content = write_files(tmp_path, files)
    code, _, err = run("init", ".", "--yes", "--name", "acme")
    assert code == 2
    assert message in err
    assert files_of(tmp_path) == content


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [\n", "line 2, column 1"),
        ("name: a\nruntime: nodejs\n", "the program is in nodejs"),
        ("", "no language"),
    ],
)
def test_a_pulumi_yaml_of_another_runtime_is_refused(run, tmp_path, text, message):
    (tmp_path / "Pulumi.yaml").write_text(text)
    code, _, err = run("init", ".", "--yes", "--name", "acme")
    assert code == 2
    assert message in err
    assert files_of(tmp_path) == {"Pulumi.yaml": text.encode()}


def test_a_folder_inside_another_project_is_refused(run, tmp_path):
    (tmp_path / "Pulumi.yaml").write_text("name: a\nruntime: python\n")
    code, _, err = run("init", "acme", "--yes")
    assert code == 2
    assert f"acme is inside the Pulumi project {tmp_path}" in err
    assert not (tmp_path / "acme").exists()


@pytest.mark.parametrize("name", ["README.md", "servers", "servers/hello", "tests", "acme"])
@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_nothing_is_written_through_a_symbolic_link(run, tmp_path, name, target):
    (tmp_path / "elsewhere").mkdir()
    root = tmp_path / "acme"
    link = root if name == "acme" else root / name
    link.parent.mkdir(exist_ok=True, parents=True)
    link.symlink_to(tmp_path / target)
    code, _, err = run("init", "acme", "--yes")
    if (name, target) == ("acme", "elsewhere"):
        assert code == 0  # the user's own name for a folder
    else:
        assert code == 2
        assert "is a symbolic link" in err or "is not a folder" in err
        assert [*(tmp_path / "elsewhere").iterdir()] == []
        assert not any(file.is_file() for file in root.rglob("*"))


def test_a_file_in_place_of_a_folder_is_refused(run, tmp_path):
    (tmp_path / "tests").write_text("mine")
    code, _, err = run("init", ".", "--yes", "--name", "acme")
    assert code == 2
    assert "tests is not a folder" in err
    assert files_of(tmp_path) == {"tests": b"mine"}


def test_a_disk_failure_while_writing_leaves_nothing_behind(run, tmp_path, monkeypatch):
    rename, moved = Path.rename, []

    def fails_at_the_fifth(self, target):
        moved.append(target)
        if len(moved) == 5:
            raise OSError(28, "No space left on device", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_at_the_fifth)
    (tmp_path / "mine").write_text("mine")
    for folder in (".", "acme"):
        moved.clear()
        code, _, err = run("init", folder, "--yes", "--name", "acme")
        assert code == 1
        assert "can't be written: No space left on device. Nothing was written." in err
        assert files_of(tmp_path) == {"mine": b"mine"}
        assert [*tmp_path.iterdir()] == [tmp_path / "mine"]


def test_a_folder_without_write_permission_is_one_message(run, tmp_path, monkeypatch):
    def refused(*arguments, **further):
        raise PermissionError(13, "Permission denied", str(tmp_path / ".mcpfleet-init-x"))

    monkeypatch.setattr("tempfile.mkdtemp", refused)
    code, out, err = run("init", "acme", "--yes")
    assert (code, out) == (1, "")
    assert "can't be written: Permission denied. Nothing was written." in err


# --- uv -------------------------------------------------------------------------------------------------


def test_uv_locks_the_program_and_the_server(run, uv, tmp_path):
    code, out, _ = run("init", "acme-mcp", "--yes")
    assert code == 0
    assert files_of(tmp_path / "acme-mcp").keys() == OF_HELLO | {"uv.lock", "servers/hello/uv.lock"}
    assert re.search(r"^  uv\.lock +their versions and hashes$", out, re.MULTILINE)
    assert {tuple(text[:2]) for text in uv.words} == {("/usr/bin/uv", "lock")}
    content_before = files_of(tmp_path / "acme-mcp")
    assert run("init", "acme-mcp", "--yes")[0] == 0
    assert files_of(tmp_path / "acme-mcp") == content_before
    assert len(uv.words) == 2


def test_without_a_network_nothing_is_written_and_the_offline_option_is_named(run, uv, tmp_path):
    uv.stderr = "error: Failed to fetch: https://pypi.org/simple/pulumi/\n  cause: dns error\n"
    code, out, err = run("init", "acme-mcp", "--yes")
    assert (code, out) == (1, "")
    assert "dns error" in err
    assert "--no-lock" in err
    assert [*tmp_path.iterdir()] == []
    assert run("init", "acme-mcp", "--yes", "--no-lock")[0] == 0
    assert files_of(tmp_path / "acme-mcp").keys() == OF_HELLO


def test_without_uv_the_lock_is_named_as_the_next_step(run):
    code, out, _ = run("init", "acme-mcp", "--yes")
    assert code == 0
    assert "uv.lock was not made: uv is not installed here." in out


# --- where pulumi-mcpfleet is not installed -------------------------------------------------------------


@pytest.fixture
def bare(monkeypatch):
    """No distribution but mcpfleet is installed, as under `uvx mcpfleet`."""
    monkeypatch.setattr(projects, "entry_points", lambda **group: ())


def test_a_project_with_hello_needs_no_other_package(run, bare, tmp_path):
    assert run("init", "acme-mcp", "--yes")[0] == 0
    assert files_of(tmp_path / "acme-mcp").keys() == OF_HELLO


def test_the_command_runs_again_with_the_package_that_inspects_servers(run, bare, monkeypatch, tmp_path):
    calls = []

    def again(text, env, check):
        calls.append((text, env["MCPFLEET_INIT_AGAIN"]))
        return SimpleNamespace(returncode=3)

    monkeypatch.setenv("UV", "/usr/bin/uv")
    monkeypatch.setattr(init.subprocess, "run", again)
    arguments = [
        "acme",
        "--yes",
        "--server",
        "npm:a-b@1",
        "--invoker",
        "user:a@b.c",
        "--no-lock",
        "--region",
        "us-east4",
    ]
    assert run("init", *arguments)[0] == 3
    ((text, mark),) = calls
    version = tomllib.loads((Path(__file__).parents[3] / "packages/mcpfleet/pyproject.toml").read_text())["project"][
        "version"
    ]
    assert text[:3] == ["/usr/bin/uv", "tool", "run"]
    assert f"pulumi-mcpfleet=={version}" in text
    assert text[text.index("init") + 1 :] == [
        "--server", "npm:a-b@1", "--region", "us-east4", "--invoker", "user:a@b.c", "--no-lock", "--yes", "--", "acme",
    ]  # fmt: skip
    assert mark == "1"
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("repeated", [True, False])
def test_if_the_command_cannot_run_again_the_command_to_type_is_printed(run, bare, monkeypatch, tmp_path, repeated):
    if repeated:
        monkeypatch.setenv("UV", "/usr/bin/uv")
        monkeypatch.setenv("MCPFLEET_INIT_AGAIN", "1")
    code, _, err = run("init", "acme", "--yes", "--server", "npm:a-b@1")
    assert code == 1
    assert "uvx --from mcpfleet==" in err
    assert [*tmp_path.iterdir()] == []


def test_check_and_local_name_the_environment_that_provides_them(run, bare):
    code, _, err = run("check")
    assert code == 1
    assert "uv run mcpfleet check" in err
    code, _, err = run("local", "up", "--stack", "x")
    assert code == 1
    assert "uv run mcpfleet local" in err
    assert "mcpfleet-local-cloud" in err


# --- check ----------------------------------------------------------------------------------------------


def test_check_prints_each_mistake_under_its_file_and_exits_with_1(run, tmp_path):
    run("init", "acme", "--yes")
    for stack in ("dev", "prod"):
        file = tmp_path / "acme" / f"Pulumi.{stack}.yaml"
        file.write_text(file.read_text().replace("health_path", "helth_path"))
    code, out, _ = run("check", "--cwd", "acme")
    assert code == 1
    mistake = "    fleet.servers.hello.helth_path: unknown key; did you mean health_path?"
    assert out.splitlines() == [
        "✗ Pulumi.dev.yaml", mistake, "✓ Pulumi.local.yaml  1 server", "✗ Pulumi.prod.yaml", mistake,
    ]  # fmt: skip
    code, out, _ = run("check", "--cwd", "acme", "--json")
    message = json.loads(out)
    assert (code, message["ok"]) == (1, False)
    assert message["files"]["Pulumi.dev.yaml"] == {
        "ok": False,
        "mistakes": [mistake.strip()],
        "warnings": [],
    }
    assert message["files"]["Pulumi.local.yaml"] == {"ok": True, "mistakes": [], "warnings": []}


def test_check_prints_a_warning_for_each_deprecated_key_and_exits_with_0(run, tmp_path, monkeypatch):
    monkeypatch.setattr(deprecated, "DEPRECATED_KEYS", {"servers.*.health_path": "write probes; 0.3.0 removes it"})
    run("init", "acme", "--yes")
    warning = "fleet.servers.hello.health_path: is deprecated; write probes; 0.3.0 removes it"
    code, out, _ = run("check", "--cwd", "acme")
    assert (code, out.splitlines()[:2]) == (0, ["✓ Pulumi.dev.yaml  1 server", f"    ! {warning}"])
    code, out, _ = run("check", "--cwd", "acme", "--json")
    assert (code, json.loads(out)["files"]["Pulumi.dev.yaml"]["warnings"]) == (0, [warning])


def test_check_outside_a_project_is_a_usage_error(run):
    code, out, err = run("check")
    assert (code, out) == (2, "")
    assert "There is no Pulumi.yaml" in err


# --- the template ---------------------------------------------------------------------------------------


def test_the_help_of_the_command_names_the_way_to_a_project_of_your_own(run):
    code, out, _ = run("--help")
    assert code == 0
    introduction = " ".join(out.partition("Options")[0].split())
    assert all(f"({command})" in introduction for command in ("init", "local", "secrets", "check"))


def test_every_file_of_the_template_has_a_purpose():
    names = {file.relative_to(TEMPLATE).as_posix() for file in TEMPLATE.rglob("*") if file.is_file()}
    assert {name for name in names if "__pycache__" not in name} == OF_HELLO


def test_the_template_works_with_pulumi_new():
    project = yaml.safe_load((TEMPLATE / "Pulumi.yaml").read_text())
    assert project["name"] == "${PROJECT}"
    assert set(project["template"]) == {"description", "config"}
    places = {
        place
        for file in TEMPLATE.rglob("*.*")
        if file.is_file()
        for place in re.findall(r"\$\{\w+\}", file.read_text())
    }
    assert places == {"${PROJECT}", "${DESCRIPTION}"}, "pulumi new fills no others"


def test_the_templates_program_is_the_repositorys():
    program = Path(__file__).parents[3] / "__main__.py"
    assert (TEMPLATE / "__main__.py").read_text() == program.read_text()


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30)
VALUES = st.recursive(
    st.booleans() | st.integers() | st.none() | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(VALUES)
def test_a_value_written_on_one_line_is_the_same_value_in_yaml(value):
    text = scaffold.flow(value)
    assert "\n" not in text
    assert yaml.safe_load(f"a:\n  source: {text}\n")["a"]["source"] == value
