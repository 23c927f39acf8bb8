"""The lock of a package: which request it answers, what makes it, and how it is installed."""

import datetime
import json
import shlex

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pulumi_mcpfleet.fleet import FleetError, parse_fleet
from pulumi_mcpfleet.packages import PackagesError, find_packages
from pulumi_mcpfleet.sources.build_plan import BuildPlanError
from pulumi_mcpfleet.sources.lock import Lock, read_newest_date
from pulumi_mcpfleet.sources.stdio import StdioSpec, plan_stdio

TODAY = datetime.date(2026, 11, 30)
PYPI = StdioSpec(pypi="a==1")
NPM = StdioSpec(npm="@s/a@1.0.0", overrides={"zod": "3.25.76"})
NPM_LOCK = {
    "packages": {
        "": {"dependencies": {"@s/a": "1.0.0"}},
        "node_modules/@s/a": {"version": "1.0.0", "integrity": "sha512-x"},
        "node_modules/@s/a/node_modules/b": {"version": "1.0.0", "inBundle": True},
    }
}


def made(folder, lock, content=None):
    """What a container that made a lock has left in *folder*."""
    folder.mkdir(exist_ok=True)
    files = {"requirements.txt": "# nothing newer than 2026-11-23\na==1 --hash=sha256:0\n"}
    if lock.kind == "npm":
        files = {"package.json": "{}", "package-lock.json": json.dumps(content or NPM_LOCK)}
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_a_lock_is_of_one_package_and_of_what_the_fleet_says_about_its_dependencies():
    requests = [
        Lock(PYPI),
        Lock(PYPI, "python:3.12-slim"),
        Lock(StdioSpec(pypi="a==2")),
        Lock(StdioSpec(pypi="a==1", bounds=["mcp<2"])),
        Lock(StdioSpec(pypi="a==1", before="2026-06-30")),
        Lock(StdioSpec(npm="a@1")),
        Lock(StdioSpec(npm="a@1", overrides={"b": "1"})),
    ]
    assert len({lock.folder for lock in requests}) == len(requests)
    assert Lock(StdioSpec(pypi="a==1", args=["x"], command=["y"], apt=["git"])).folder == Lock(PYPI).folder


@given(st.sampled_from(["npm", "pypi"]), st.text(min_size=1, max_size=40), st.text(max_size=20))
def test_no_package_names_a_folder_elsewhere(kind, package, base):
    place = Lock(StdioSpec(**{kind: package}), base).folder
    first, second, last = place.split("/")
    assert (first, second) == ("packages.lock", kind)
    assert last.isascii()
    assert not last.startswith(".")


@pytest.mark.parametrize(
    ("latest", "days", "newest"),
    [("", 7, "2026-11-23"), ("2026-06-30", 7, "2026-06-30"), ("2026-11-29", 7, "2026-11-23"), ("", 0, "2026-11-30")],
)
def test_nothing_is_younger_than_the_age_that_is_wanted_nor_than_the_fleet_allows(latest, days, newest):
    assert Lock(StdioSpec(pypi="a==1", before=latest)).newest_date(TODAY, days) == newest


def test_a_package_of_pypi_is_locked_with_hashes_for_every_platform():
    text = Lock(StdioSpec(pypi="a[x]==1", bounds=["mcp<2"], apt_build=["gcc"])).dockerfile("2026-11-23")
    assert "printf '%s\\n' 'a[x]==1' 'mcp<2' > " in text
    assert "--universal --generate-hashes" in text
    assert "--exclude-newer 2026-11-23" in text
    assert "--no-install-recommends gcc" in text


def test_a_package_of_npm_is_locked_without_running_anything_of_it_and_without_naming_a_registry():
    text = Lock(NPM).dockerfile("2026-11-23")
    (line,) = (line for line in text.splitlines() if "package.json" in line)
    arguments = shlex.split(line.removesuffix("\\"))
    manifest = json.loads(arguments[arguments.index("printf") + 2])
    assert manifest == {"private": True, "dependencies": {"@s/a": "1.0.0"}, "overrides": {"zod": "3.25.76"}}
    assert "--package-lock-only --ignore-scripts --omit-lockfile-registry-resolved" in text
    assert "--before=2026-11-23" in text


@pytest.mark.parametrize("server", [PYPI, NPM])
def test_a_lock_that_was_made_is_found_again(tmp_path, server):
    lock = Lock(server)
    assert lock.read(tmp_path) == {}
    place = lock.save(made(tmp_path / "made", lock), tmp_path)
    assert place == tmp_path / lock.folder
    assert lock.exists(tmp_path)
    assert {name: (place / name).read_bytes() for name in lock.read(tmp_path)} == lock.read(tmp_path)


def test_what_has_no_hash_is_no_lock(tmp_path):
    content = {"packages": {**NPM_LOCK["packages"], "node_modules/c": {"resolved": "git+ssh://git@h/c.git#1"}}}
    lock = Lock(NPM)
    with pytest.raises(BuildPlanError, match=r"c of @s/a@1.0.0 comes from no registry and has no hash"):
        lock.save(made(tmp_path / "made", lock, content), tmp_path)
    assert not lock.exists(tmp_path)


def test_where_nothing_was_made_nothing_is_kept(tmp_path):
    (tmp_path / "made").mkdir()
    with pytest.raises(BuildPlanError, match="a==1: the build created no lock"):
        Lock(PYPI).save(tmp_path / "made", tmp_path)


def test_an_image_installs_exactly_what_is_locked():
    locked = {"requirements.txt": b"# nothing newer than 2026-11-23\na==1 --hash=sha256:0\n"}
    pypi = plan_stdio(StdioSpec(pypi="a==1", bounds=["mcp<2"]), locked, read_newest_date(locked))
    assert "uv pip sync --quiet --require-hashes --python /opt/server/bin/python requirements.txt" in pypi.dockerfile
    assert "--exclude-newer 2026-11-23" in pypi.dockerfile
    assert "lock/requirements.txt" in pypi.dockerfile
    assert '"a==1"' not in pypi.dockerfile
    npm = plan_stdio(NPM, {"package.json": b"{}", "package-lock.json": b"{}"})
    assert " ci --prefix /opt/server --omit=dev " in npm.dockerfile
    assert "COPY lock/package.json lock/package-lock.json /opt/server/\n" in npm.dockerfile
    assert '"@s/a@1.0.0"' not in npm.dockerfile
    assert "what it depends on is locked" in [*pypi.decisions, *npm.decisions]


def test_without_a_lock_it_is_said_that_there_is_none():
    assert "mcpfleet packages lock" in " ".join(plan_stdio(PYPI).decisions)


# --- the fleets of a folder ------------------------------------------------------------------------------------------


def fleet(*sources, **keys):
    servers = {f"s{number}": {"source": source} for number, source in enumerate(sources)}
    return {"region": "europe-west1", "servers": servers, **keys}


def stack(root, name, *sources, **keys):
    config = {"config": {"mcpfleet:fleet": fleet(*sources, **keys)}}
    (root / f"Pulumi.{name}.yaml").write_text(yaml.safe_dump(config))


A, B = {"stdio": {"pypi": "a==1"}}, {"stdio": {"npm": "b@1.0.0"}}


def test_profile_prod_refuses_a_package_without_a_lock_and_an_image_without_a_digest(tmp_path):
    image = {"stdio": {"image": "docker.io/acme/tools:1", "command": ["tools"]}}
    with pytest.raises(FleetError) as refused:
        parse_fleet(fleet(A, B, image, profile="prod"), root=tmp_path)
    lines = str(refused.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "fleet.servers.s0.source.stdio.pypi",
        "fleet.servers.s1.source.stdio.npm",
        "fleet.servers.s2.source.stdio.image",
    ]
    assert "run `mcpfleet packages lock` and commit what it writes" in lines[0]
    assert parse_fleet(fleet(A, B, image, profile="dev"), root=tmp_path).servers
    lock = Lock(PYPI)
    lock.save(made(tmp_path / "made", lock), tmp_path)
    assert parse_fleet(fleet(A, profile="prod"), root=tmp_path).servers


def test_each_package_of_every_stack_is_named_once(tmp_path):
    stack(tmp_path, "dev", A, {"image": "docker.io/acme/x:1"})
    stack(tmp_path, "prod", A, B, {**A, "build_args": {"BASE_IMAGE": "python:3.12"}}, profile="prod")
    (tmp_path / "Pulumi.other.yaml").write_text("config: {gcp:project: p}")
    packages = find_packages(tmp_path)
    assert [package.name for package in packages] == ["a==1", "b@1.0.0", "a==1"]
    assert [package.build_args for package in packages] == [{}, {}, {"BASE_IMAGE": "python:3.12"}]
    assert [package.name for package in find_packages(tmp_path, "dev")] == ["a==1"]
    assert not any(package.is_locked for package in packages)
    packages[0].save_lock(made(tmp_path / "made", packages[0].lock))
    assert [package.is_locked for package in find_packages(tmp_path)] == [True, False, False]
    assert "--exclude-newer 2026-11-23" in packages[0].dockerfile(TODAY, 7)


def test_a_folder_without_a_fleet_says_where_to_go(tmp_path):
    with pytest.raises(PackagesError, match=r"There is no Pulumi\.prod\.yaml in .*--cwd"):
        find_packages(tmp_path, "prod")
    with pytest.raises(PackagesError, match=r"There is no Pulumi\.STACK\.yaml"):
        find_packages(tmp_path)


def test_a_fleets_mistakes_are_said_with_the_name_of_the_file(tmp_path):
    stack(tmp_path, "prod", {"stdio": {"pypi": "a"}})
    with pytest.raises(PackagesError, match=r"^Pulumi\.prod\.yaml:\nfleet\.servers\.s0\.source\.stdio\.pypi: "):
        find_packages(tmp_path)
    (tmp_path / "Pulumi.prod.yaml").write_text("a: [")
    with pytest.raises(PackagesError, match=r"^Pulumi\.prod\.yaml can't be read: "):
        find_packages(tmp_path)
