"""The documents agree with the code: generated tables, examples, links, commands."""

import ast
import json
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest
import yaml

import mcpfleet_local_cloud.reference
from devtools import arguments, cli, reference
from devtools.reference import COMMAND, SCHEMA, PageError, insert_parts
from mcpfleet_local_cloud.services.run import unsupported
from pulumi_mcpfleet.fleet import FleetError, Server, parse_fleet
from pulumi_mcpfleet.provider import translate

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*/*.md")])
PAGE_IDS = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
REFERENCE = {"source": {"build": "./mcp_server"}}

every_page = pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)


def blocks(page, language):
    return [body for kind, body in FENCE.findall(page.read_text()) if kind == language]


def prose(page):
    return FENCE.sub("", page.read_text())


def slug(heading):
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


def mistakes(fleet, root=ROOT):
    try:
        parse_fleet(fleet, root=root)
    except FleetError as error:
        return str(error).splitlines()
    return []


# --- generated parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "make"), [("fleet", reference.render_fleet), ("local-cloud", mcpfleet_local_cloud.reference.build_parts)]
)
def test_the_generated_parts_are_what_the_code_says(name, make):
    page = (ROOT / "docs" / f"{name}.md").read_text()
    assert insert_parts(page, make()) == page, f"docs/{name}.md is not in step with the code; run: {COMMAND}"


def test_the_arguments_of_the_components_are_what_the_code_says():
    text = (ROOT / arguments.FILE).read_text(encoding="utf-8")
    assert text == arguments.render(), f"{arguments.FILE} is not in step with the code; run: {COMMAND}"


def test_a_part_that_the_page_has_no_place_for_is_named():
    page = "<!-- generated: a. -->\n<!-- end of a -->"
    assert "new" in insert_parts(page, {"a": "new"})
    with pytest.raises(PageError, match="b"):
        insert_parts(page, {"a": "", "b": ""})
    with pytest.raises(PageError, match="end of a"):
        insert_parts("<!-- generated: a. -->", {"a": ""})


def test_every_refusal_that_the_cloud_can_make_is_found_and_listed():
    tree = ast.parse(Path(str(unsupported.__file__)).read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    reasons = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
        if " " in node.value and node.value.endswith(".")
    }
    assert len(reasons) > 20
    assert reasons - set(mcpfleet_local_cloud.reference.find_refusals().values()) == set()


def test_no_field_is_both_supported_and_refused():
    supported = mcpfleet_local_cloud.reference.find_supported_fields()
    assert {"template", "customAudiences", "invokerIamDisabled"} <= set(supported["Service"])
    refused = [
        path.rpartition(".")[2] for path in mcpfleet_local_cloud.reference.find_refusals() if path.count(".") == 1
    ]
    assert set(supported["Service"]) & set(refused) == set()


# --- examples -------------------------------------------------------------------------------------------


HOLDERS = {
    "registry": lambda part: {"registry": part},
    "source-build": lambda part: {"source": {"build": "./mcp_server", **part}},
    "source-image": lambda part: {"source": {"image": "docker.io/acme/toolbox:1", **part}},
    "source-folder": lambda part: {"source": {"folder": "./my_server", **part}},
    "source-git": lambda part: {"source": {"git": GIT, **part}},
    "source-git-repository": lambda part: {"source": {"git": {**GIT, **part}}},
    "source-file-of-an-image": lambda part: {
        "source": {"stdio": {"pypi": "a==1", "copy_from": {"/bin/a": {"image": PINNED, "path": "/a", **part}}}}
    },
    "source-stdio": lambda part: {"source": {"stdio": {"pypi": "a==1"}, **part}},
    "source-stdio-server": lambda part: {
        "source": {"stdio": {**STDIO.get(next(iter(part)), {"pypi": "a==1"}), **part}}
    },
    "source-registry": lambda part: {"source": {"registry": "io.github.acme/weather@1.2.0", **part}},
    "access-iam": lambda part: {"access": {"iam": part}},
    "access-iap": lambda part: {"access": {"iap": part}},
    "access-iap-client": lambda part: {"access": {"iap": {"oauth_client": {**CLIENT, **part}}}},
    "access-login": lambda part: {
        "access": {"login": {**LOGIN, **part} if "oidc" not in part else {**LOGIN_KEY, **part}}
    },
    "access-login-google": lambda part: {"access": {"login": {**LOGIN_KEY, "google": part}}},
    "access-login-oidc": lambda part: {"access": {"login": {**LOGIN_KEY, "oidc": {**OIDC, **part}}}},
    "access-login-oidc-client": lambda part: {
        "access": {"login": {**LOGIN_KEY, "oidc": {**OIDC, "client": {**OIDC["client"], **part}}}}
    },
    "access-oauth": lambda part: {"access": {"oauth": {"issuer": "https://login.acme.dev", **part}}},
    "role": lambda part: {"roles": [{"role": "roles/pubsub.admin", "reason": "makes a topic for each tenant", **part}]},
    "access-public": lambda part: {"access": {"public": part}},
    "secret": lambda part: {"secrets": {"KEY": {"secret": "a", "version": "1", **part}}},
    "volume-memory": lambda part: {"volumes": {"v": {"memory": "64Mi", "mount": "/v", **part}}},
    "volume-gcs": lambda part: {"volumes": {"v": {"gcs": {"bucket": "b-1"}, "mount": "/v", **part}}},
    "volume-gcs-bucket": lambda part: {"volumes": {"v": {"gcs": {"bucket": "b-1", **part}, "mount": "/v"}}},
    "volume-secret": lambda part: {
        "volumes": {"v": {"mount": "/v", **({"secret": "s"} if "items" in part else FILE), **part}}
    },
    "volume-secret-item": lambda part: {
        "volumes": {"v": {"mount": "/v", "secret": "s", "items": {"f": {"version": "1", **part}}}}
    },
    "volume-disk": lambda part: {"volumes": {"v": {"disk": "10Gi", "mount": "/v", **part}}},
    "volume-nfs": lambda part: {**VPC, "volumes": {"v": {"nfs": EXPORT, "mount": "/v", **part}}},
    "volume-nfs-export": lambda part: {**VPC, "volumes": {"v": {"nfs": {**EXPORT, **part}, "mount": "/v"}}},
    "sidecar": lambda part: {
        "sidecars": {"one": {"image": "a/b", **part}, "database": {"image": "a/b"}},
        "volumes": {"cache": {"memory": "64Mi", "mount": "/elsewhere"}},
    },
    "probes": lambda part: {"probes": part},
    "probe": lambda part: {"probes": {"liveness": part}},
    "probe-grpc": lambda part: {"probes": {"liveness": {"grpc": part}}},
    "vpc": lambda part: {"vpc": part if "connector" in part else {"network": "default", **part}},
}
GIT = {"url": "https://github.com/acme/weather-mcp.git", "ref": "v1"}
PINNED = f"a/b@sha256:{'0' * 64}"
STDIO = {
    "npm": {},
    "pypi": {},
    "image": {"command": ["a"]},
    "overrides": {"npm": "a@1.0.0"},
    "install_scripts": {"npm": "a@1.0.0"},
}
CLIENT = {"client_id": "1-a.apps.googleusercontent.com", "secret": "s", "version": "1"}
LOGIN_KEY = {"key": {"secret": "k", "version": "1"}}
LOGIN = {**LOGIN_KEY, "google": {"client": CLIENT}}
OIDC = {"issuer": "https://login.acme.dev", "client": {"client_id": "c", "secret": "s", "version": "1"}}
VPC = {"vpc": {"network": "default"}}
EXPORT = {"server": "10.0.0.2", "path": "/share"}
FILE = {"secret": "s", "version": "1", "file": "f"}


def around(section, fragment):
    """A whole fleet that holds *fragment*, some keys of the model that *section* shows."""
    fleet = {
        "region": "europe-west1",
        "organization": "481516234200",
        "load_balancer": "shared",
        "servers": {"reference": REFERENCE},
    }
    if section == "fleet":
        # Several regions stand in the place of one, and want a domain.
        fleet = {key: one for key, one in fleet.items() if key != "region" or "regions" not in fragment}
        return {**fleet, "servers": {"reference": {**REFERENCE, "domain": "mcp.acme.dev"}}, **fragment}
    if section in {"registry", "cloud-build"}:
        return {**fleet, section.replace("-", "_"): fragment}
    if section == "client":
        servers = {"reference": REFERENCE, "toolbox": {"source": {"image": "a/b", "port": 5000}}}
        beside = COMPANIONS.get(next(iter(fragment)), {})
        client = {"source": {"image": "a/b"}, "calls": ["reference"], **beside, **fragment}
        return {**fleet, "servers": servers, "clients": {"assistant": client}}
    keys = (
        HOLDERS[section](fragment) if section in HOLDERS else {**COMPANIONS.get(next(iter(fragment)), {}), **fragment}
    )
    return {**fleet, "servers": {"reference": {**REFERENCE, **keys}}}


GPU = {"cpu": "4", "memory": "16Gi", "cpu_throttling": False}
COMPANIONS = {
    "transports": {"max_instances": 1},
    "sessions": {"max_instances": 1},
    "depends_on": {"sidecars": {"redis": {"image": "a/b"}}},
    "default_url": {"domain": "mcp.acme.dev"},
    "domain_path": {"domain": "mcp.acme.dev", "path": "/weather/mcp"},
    "gpu": GPU,
    "gpu_zonal_redundancy": {**GPU, "gpu": "nvidia-l4"},
    "use_http2": {"health_path": None, "source": {"image": "docker.io/acme/toolbox:1"}},
}
"""What has to stand beside a server's key for its example to be right."""


@pytest.mark.parametrize(("section", "key", "example"), list(reference.list_examples()))
def test_every_keys_example_is_accepted(section, key, example):
    # What a folder holds is another matter than what may be said of one; `./my_server` is nobody's.
    root = None if "my_server" in example or section in ("source-folder", "source-registry") else ROOT
    assert mistakes(around(section, yaml.safe_load(example)), root) == [], f"the example of {section}.{key}"


def test_the_editors_schema_is_what_the_code_says():
    assert (ROOT / SCHEMA).read_text() == reference.render_schema(), (
        f"{SCHEMA} is not in step with the code; run: {COMMAND}"
    )


@pytest.mark.parametrize("stack", sorted(path.name for path in ROOT.glob("Pulumi.*.yaml")))
def test_every_stack_of_the_repository_fits_the_editors_schema(stack):
    validator = jsonschema.Draft202012Validator(json.loads((ROOT / SCHEMA).read_text()))
    assert list(validator.iter_errors(yaml.safe_load((ROOT / stack).read_text()))) == []


@pytest.mark.parametrize(("section", "key", "example"), list(reference.list_examples()))
def test_the_editors_schema_takes_what_the_parser_takes(section, key, example):
    validator = jsonschema.Draft202012Validator(json.loads((ROOT / SCHEMA).read_text()))
    stack = {"config": {"mcpfleet:fleet": around(section, yaml.safe_load(example))}}
    assert [error.message for error in validator.iter_errors(stack)] == []


def test_the_editors_schema_refuses_an_unknown_key_and_a_bad_name():
    validator = jsonschema.Draft202012Validator(json.loads((ROOT / SCHEMA).read_text()))

    def wrong(fleet):
        return bool(list(validator.iter_errors({"config": {"mcpfleet:fleet": fleet}})))

    good = {"region": "europe-west1", "servers": {"reference": REFERENCE}}
    assert not wrong(good)
    assert wrong({**good, "regin": "x"})
    assert wrong({**good, "servers": {"reference": {**REFERENCE, "max_instnces": 1}}})
    assert wrong({**good, "servers": {"Reference!": REFERENCE}})
    assert wrong({**good, "servers": {"reference": {**REFERENCE, "source": {"biuld": "x"}}}})


@every_page
def test_every_fleet_on_a_page_is_one(page):
    for body in blocks(page, "yaml"):
        found = yaml.safe_load(body)
        if "config" in found:
            assert "gcp:project" in found["config"]
            fleet = found["config"]["mcpfleet:fleet"]
            looked_up = any("registry" in one["source"] for one in fleet["servers"].values())
            assert mistakes(fleet, None if looked_up else ROOT) == []
        elif "servers" in found:
            assert mistakes({"region": "europe-west1", **found}) == []
        elif found.get("runtime") == "yaml":
            for one in found["resources"].values():
                assert one["type"] == "mcpfleet:index:Fleet"
                arguments_of = translate.to_arguments("Fleet", one["properties"])
                assert mistakes({key: value for key, value in arguments_of.items() if key != "project"}) == []
        else:
            assert "jobs" in found, f"neither a fleet nor a CI job:\n{body}"


@every_page
def test_every_python_example_compiles(page):
    for body in blocks(page, "python"):
        compile(body, str(page), "exec")


@pytest.mark.parametrize("page", ["README.md", "docs/fleet.md"])
def test_the_mistakes_that_a_page_shows_are_reported_in_these_words(page):
    shown = re.findall(r"fleet\.[\w.]+: [^`\n]+", (ROOT / page).read_text())
    said = {
        line
        for server in ("toolbox", "reference")
        for line in mistakes({"servers": {server: {**REFERENCE, "max_instnces": 1}}})
    }
    assert shown
    assert set(shown) - said == set()


@pytest.mark.parametrize(
    ("good", "bad", "key"),
    [
        ({"cpu": "0.5", "concurrency": 1}, {"cpu": "0.5", "concurrency": 2}, "concurrency"),
        ({"cpu": "0.4", "concurrency": 1}, {"cpu": "0.4", "concurrency": 1, "memory": "513Mi"}, "memory"),
        (
            {"cpu": "0.5", "concurrency": 1, "memory": "1Gi"},
            {"cpu": "0.5", "concurrency": 1, "memory": "1025Mi"},
            "memory",
        ),
        ({"cpu": 1, "memory": "4Gi"}, {"cpu": 1, "memory": "4097Mi"}, "memory"),
        ({"cpu": 2, "memory": "8Gi"}, {"cpu": 2, "memory": "8193Mi"}, "memory"),
        ({"cpu": 4, "memory": "16Gi"}, {"cpu": 4, "memory": "16385Mi"}, "memory"),
        ({"cpu": 6, "memory": "24Gi"}, {"cpu": 6, "memory": "24577Mi"}, "memory"),
        ({"cpu": 4, "memory": "2Gi"}, {"cpu": 4, "memory": "2047Mi"}, "memory"),
        ({"cpu": 6, "memory": "4Gi"}, {"cpu": 8, "memory": "4095Mi"}, "memory"),
        ({"min_instances": 2, "max_instances": 2}, {"min_instances": 2, "max_instances": 1}, "max_instances"),
        ({"health_path": "/health"}, {"health_path": "/mcp"}, "health_path"),
    ],
)
def test_the_rules_between_keys_hold_where_the_guide_says(good, bad, key):
    assert mistakes(around("server", good)) == []
    (mistake,) = mistakes(around("server", bad))
    assert mistake.startswith(f"fleet.servers.reference.{key}: ")


def test_the_comparison_has_every_key_of_a_server():
    rows = re.findall(r"^\| (.+?) \|", (ROOT / "docs" / "compare.md").read_text(), re.MULTILINE)
    named = set(re.findall(r"`(\w+)", " ".join(rows)))
    assert set(Server.model_fields) - named == set(), "a key of a server is not compared with the others"


# --- links and commands ---------------------------------------------------------------------------------


@every_page
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://") or target == "NNNN-title.md":
            continue
        path, _, anchor = target.partition("#")
        place = page.parent / path if path else page
        assert place.exists(), f"{target} is not there"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", prose(place), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, f"{target} names no heading"


@every_page
def test_every_command_that_is_named_exists(page):
    known = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    text = page.read_text()
    code = "\n".join([*(body for _, body in FENCE.findall(text)), *re.findall(r"`([^`\n]+)`", prose(page))])
    assert set(re.findall(r"(?:^|[\s\"])\./dev ([a-z][a-z-]*)", code)) - known == set()
    for module in re.findall(r"python -m ((?:local_cloud|workbench)[\w.]*)", code):
        assert find_spec(module) is not None, module


DECISIONS = [page for page in PAGES if page.parent.name == "adr" and page.name != "README.md"]


def test_the_list_of_decisions_names_each_by_its_title():
    listed = [line[2:] for line in (ROOT / "docs/adr/README.md").read_text().splitlines() if line.startswith("- ")]
    titles = [(page.name, page.read_text().splitlines()[0][2:].split(": ", 1)) for page in sorted(DECISIONS)]
    assert listed == [f"[{number}]({name}): {title}" for name, (number, title) in titles if number != "NNNN"]


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_every_decision_says_what_gets_worse(page):
    headings = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
    assert {"Context", "Decision", "What gets worse"} <= set(headings)
    assert re.match(rf"# (NNNN|{page.stem[:4]}): ", page.read_text())


def test_the_changelog_has_an_entry_for_the_version_in_pyproject():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(rf"^## {re.escape(version)}( |$)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
