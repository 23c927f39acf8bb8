"""The image of a stdio server: what is written into it, and which of a package's programs it starts."""

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_bridge import installed
from pulumi_mcpfleet.sources.build_plan import BuildPlanError, FromImage
from pulumi_mcpfleet.sources.stdio import PROGRAM, StdioSpec, plan_stdio


def variable(dockerfile, name):
    """The value of an ENV line, its quotes and backslashes undone as the builder does."""
    (line,) = (line for line in dockerfile.splitlines() if line.startswith(f"ENV {name}="))
    (word,) = shlex.split(line.removeprefix(f"ENV {name}="))
    return json.loads(word.replace("\\$", "$"))


def test_nothing_is_fetched_when_it_starts():
    dockerfile = plan_stdio(StdioSpec(npm="@a/b@1.0.0")).dockerfile
    assert variable(dockerfile, "MCP_STDIO_COMMAND") == [PROGRAM]
    assert "npx" not in dockerfile
    assert "--ignore-scripts" in dockerfile
    assert [line for line in dockerfile.splitlines() if line.startswith("USER")] == ["USER 65532:65532"]


def test_packages_of_debian_are_installed_as_root_and_the_server_runs_as_nobody():
    dockerfile = plan_stdio(StdioSpec(pypi="a==1", apt=["git"])).dockerfile
    lines = dockerfile.splitlines()
    assert [line for line in lines if line.startswith("USER")] == ["USER 65532:65532"]
    assert next(index for index, line in enumerate(lines) if "apt-get" in line) < lines.index("USER 65532:65532")


def test_a_command_of_the_users_needs_no_program_to_be_found():
    dockerfile = plan_stdio(StdioSpec(pypi="a==1", command=["python", "-m", "a"])).dockerfile
    assert variable(dockerfile, "MCP_STDIO_COMMAND") == ["python", "-m", "a"]
    assert "installed.py pypi" not in dockerfile


def test_what_a_package_depends_on_is_held_by_bounds_and_a_date():
    dockerfile = plan_stdio(StdioSpec(pypi="a==1", bounds=["mcp<2"], before="2026-06-30", apt_build=["gcc"])).dockerfile
    assert "\"a==1\" 'mcp<2' --exclude-newer 2026-06-30 && " in dockerfile
    assert "--no-install-recommends gcc" in dockerfile.partition("FROM tools AS server")[2].partition("\nFROM ")[0]


def test_what_a_package_of_npm_depends_on_is_held_by_overrides_and_a_date():
    server = StdioSpec(npm="a@1.0.0", overrides={"zod": "3.25.76", "@s/it's": "1"}, before="2026-06-30")
    dockerfile = plan_stdio(server).dockerfile
    assert ' --before=2026-06-30 -- "a@1.0.0"' in dockerfile
    (line,) = (line for line in dockerfile.splitlines() if "package.json" in line)
    arguments = shlex.split(line.removesuffix("\\"))
    assert json.loads(arguments[arguments.index("printf") + 2]) == {"overrides": dict(server.overrides)}


def test_no_installation_script_runs_but_for_those_of_packages_that_the_user_names():
    dockerfile = plan_stdio(StdioSpec(npm="a@1.0.0", install_scripts=["better-sqlite3", "@s/b"])).dockerfile
    assert "--ignore-scripts" in dockerfile
    (line,) = (line for line in dockerfile.splitlines() if " rebuild " in line)
    assert line.endswith(" better-sqlite3 @s/b")
    assert " rebuild " not in plan_stdio(StdioSpec(npm="a@1.0.0")).dockerfile


def test_programs_of_other_images_are_there_before_the_server_starts():
    kubectl = FromImage("registry.k8s.io/kubectl@sha256:0", "/bin/kubectl")
    dockerfile = plan_stdio(StdioSpec(npm="a@1.0.0", copy_from={"/usr/local/bin/kubectl": kubectl})).dockerfile
    line = "\nCOPY --from=registry.k8s.io/kubectl@sha256:0 /bin/kubectl /usr/local/bin/kubectl\n"
    assert line in dockerfile.rpartition("\nFROM ")[2]


@pytest.mark.parametrize("kind", [{"npm": "a@1.0.0"}, {"pypi": "a==1"}, {"image": "a/b", "command": ["a"]}])
def test_folders_that_may_be_written_are_filled_before_the_bridge_starts(kind):
    lines = plan_stdio(StdioSpec(**kind, writable=["/opt/server/data", "/srv"])).dockerfile.splitlines()
    start = json.loads(next(line for line in lines if line.startswith("CMD ")).removeprefix("CMD "))
    assert start[:4] == ["sh", "-c", 'cp -r /opt/initial/. / && exec "$@"', "sh"]
    assert "for each in /opt/server/data /srv; do " in "\n".join(lines[: lines.index("USER 65532:65532")])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=4))
def test_arguments_arrive_as_they_were_written(args):
    dockerfile = plan_stdio(StdioSpec(pypi="a==1", args=args)).dockerfile
    if args:
        assert variable(dockerfile, "MCP_STDIO_ARGS") == args


@given(st.text(max_size=30), st.sampled_from(["npm", "pypi"]))
def test_no_package_name_becomes_a_command(text, kind):
    try:
        dockerfile = plan_stdio(StdioSpec(**{kind: text})).dockerfile
    except BuildPlanError:
        return
    assert not set(text) & set(" \n\"'`$;&|<>\\()")
    assert f'"{text}"' in dockerfile


@pytest.mark.parametrize(
    ("programs", "name", "chosen"),
    [
        (["serve"], "a", "serve"),
        (["a", "a-admin"], "a", "a"),
        (["server-x", "other"], "@scope/server-x", "server-x"),
    ],
)
def test_the_only_program_is_the_server_or_the_one_that_is_called_as_the_package(tmp_path, programs, name, chosen):
    path = installed.choose_program({program: tmp_path / program for program in programs}, name)
    assert path == tmp_path / chosen


@pytest.mark.parametrize(("programs", "message"), [([], "has no program"), (["b", "c"], "has the programs b, c")])
def test_otherwise_the_build_stops_with_the_key_to_set(tmp_path, programs, message):
    with pytest.raises(installed.UndecidedError, match=rf"a {message}.*write stdio: \{{command:"):
        installed.choose_program({program: tmp_path / program for program in programs}, "a")


def test_the_programs_of_a_python_package_are_those_of_its_metadata(tmp_path):
    info = tmp_path / "lib" / "python3.13" / "site-packages" / "mcp_server_time-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mcp-server-time\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[console_scripts]\nmcp-server-time = a:main\n[other]\nx = y:z\n")
    scripts = installed.find_console_scripts(tmp_path, "MCP_Server.Time")
    assert scripts == {"mcp-server-time": tmp_path / "bin" / "mcp-server-time"}
    assert installed.find_console_scripts(tmp_path, "other") == {}


@pytest.mark.parametrize(
    ("bin_", "programs"), [("dist/i.js", ["server"]), ({"a": "a.js", "b": "b.js"}, ["a", "b"]), (None, [])]
)
def test_the_programs_of_an_npm_package_are_those_of_its_bin(tmp_path, bin_, programs):
    place = tmp_path / "node_modules" / "@s" / "server"
    place.mkdir(parents=True)
    (place / "package.json").write_text(json.dumps({} if bin_ is None else {"bin": bin_}))
    assert sorted(installed.find_node_programs(tmp_path, "@s/server")) == programs


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../other", "link/x"])
def test_a_program_outside_of_its_package_is_not_touched(tmp_path, path):
    place = tmp_path / "node_modules" / "server"
    place.mkdir(parents=True)
    (place / "link").symlink_to("/etc")
    other = tmp_path / "other"
    other.write_text("")
    other.chmod(0o600)
    (place / "package.json").write_text(json.dumps({"bin": path}))
    with pytest.raises(installed.UndecidedError, match="server names a program outside the package"):
        installed.main("npm", "server", str(tmp_path / "mcp-server"))
    assert other.stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "mcp-server").is_symlink()


@pytest.mark.parametrize("bin_", [{"--x": "i.js"}, {"a\nb": "i.js"}, {"../x": "i.js"}, {}, ""])
def test_a_program_without_a_files_name_is_none(tmp_path, bin_):
    place = tmp_path / "node_modules" / "server"
    place.mkdir(parents=True)
    (place / "package.json").write_text(json.dumps({"bin": bin_}))
    if bin_:
        assert installed.find_node_programs(tmp_path, "server") == {}


def test_the_program_is_linked_to_one_place_and_can_be_run(tmp_path):
    place = tmp_path / "node_modules" / "server"
    place.mkdir(parents=True)
    (place / "package.json").write_text('{"bin": "i.js"}')
    (place / "i.js").write_text("#!/usr/bin/env node\n")
    installed.main("npm", "server", str(tmp_path / "mcp-server"))
    assert (tmp_path / "mcp-server").resolve() == place / "i.js"
    assert (place / "i.js").stat().st_mode & 0o111
