"""Enforces the "must not" column of the table of folders: each rule walks the syntax trees of its folders.

Every rule is tested itself: it must find the violation that stands beside it, and pass the permitted
form. Trees, not text: a word in a docstring or a comment is no violation.
"""

import ast
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from mcpfleet.inert import inert
from pulumi_mcpfleet.fleet.field_docs import is_visible

ROOT = Path(__file__).parents[1]
SERVER = "packages/mcpfleet-server"
BRIDGE = "packages/mcpfleet-bridge"
LOGIN = "packages/mcpfleet-login"
FLEET = "packages/mcpfleet"
INFRA = ("infra/pulumi_mcpfleet",)
CLOUD_BUILD = "infra/pulumi_mcpfleet/cloud_build"
COMMANDS = "local_cloud/mcpfleet_local_cloud/commands"
CONTAINERS = ("mcp_server", "mcp_client", BRIDGE, LOGIN, SERVER)

Found = Iterator[tuple[int, str]]
"""Line and reason of each violation in one file."""


@dataclass(frozen=True)
class Rule:
    """What the files of some rooms may not do, with a snippet that does it and one that may stay."""

    name: str
    rooms: tuple[str, ...]
    check: Callable[[ast.Module], Found]
    violations: tuple[str, ...]
    permitted: str
    exempt: str = r"(?!)"

    def files(self) -> list[Path]:
        found: list[Path] = []
        for room in self.rooms:
            place = ROOT / room
            found += [place] if place.is_file() else sorted(place.rglob("*.py"))
        return [file for file in found if not re.search(rf"{self.exempt}|\.venv/", file.relative_to(ROOT).as_posix())]


# --- what a tree says ---------------------------------------------------------------------------------


def dotted(node: ast.expr) -> str:
    """`a.b.c` for a chain of names, else what can be known of its end."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every module that is imported anywhere, by statement or by a call with a constant name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] in {"import_module", "__import__"}:
            yield from ((node.lineno, arg.value) for arg in node.args if isinstance(arg, ast.Constant))


def words(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every name and attribute that the code uses, and every name that it imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.alias):
            yield node.lineno, node.name.rpartition(".")[2]


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every string of the code that is a value: no docstring, no bare string."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


# --- checks -------------------------------------------------------------------------------------------


def no_import(*forbidden: str) -> Callable[[ast.Module], Found]:
    pattern = re.compile(rf"({'|'.join(forbidden)})(\.|$)")

    def check(tree: ast.Module) -> Found:
        return ((line, f"imports {name}") for line, name in imported(tree) if pattern.match(name))

    return check


def no_authoritative_iam(tree: ast.Module) -> Found:
    for line, word in words(tree):
        if re.search(r"iam_?(binding|policy|audit_?config)s?$", word, re.IGNORECASE):
            yield line, f"{word} replaces grants that it does not list; add an IamMember"


LOCAL = re.compile(r"\blocal\b", re.IGNORECASE)
LOCAL_NAME = re.compile(r"((is|on|not|run|runs|running)_)?local(ly|_mode|_stack)?", re.IGNORECASE)


def no_branch_on_surroundings(tree: ast.Module) -> Found:
    for line, word in words(tree):
        if word in {"get_stack", "get_organization"}:
            yield line, "asks for the stack's name"
    for line, text in texts(tree):
        if LOCAL.search(text):
            yield line, f"knows the word in {text!r}"
    yield from no_local_condition(tree)


def no_local_condition(tree: ast.Module) -> Found:
    for node in ast.walk(tree):
        conditions = [getattr(node, "test", None), getattr(node, "subject", None), *getattr(node, "ifs", [])]
        for condition in filter(None, conditions):
            for part in ast.walk(condition):
                word = getattr(part, "id", getattr(part, "attr", ""))
                text = part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else ""
                if LOCAL_NAME.fullmatch(word) or LOCAL_NAME.fullmatch(text):
                    yield node.lineno, f"decides by {word or text!r}"


def no_environment(tree: ast.Module) -> Found:
    for line, word in words(tree):
        if word in {"environ", "environb", "getenv"}:
            yield line, f"reads the environment ({word})"


def component_manners(tree: ast.Module) -> Found:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and dotted(node) in {"pulumi.Config", "pulumi.export"}:
            yield node.lineno, f"{dotted(node)} belongs to __main__.py"
        if not isinstance(node, ast.Call):
            continue
        if dotted(node.func).endswith(".Provider"):
            yield node.lineno, "makes a provider; the stack's config chooses it"
        if dotted(node.func).endswith("ResourceOptions.merge"):
            yield node.lineno, "merges a caller's options into a child, which takes the child out of the component"
        if any(keyword.arg == "opts" and dotted(keyword.value) == "opts" for keyword in node.keywords):
            yield node.lineno, "passes the caller's options to a child"


def no_computing(tree: ast.Module) -> Found:
    kinds = (ast.If, ast.IfExp, ast.BinOp, ast.Compare, ast.While, ast.JoinedStr)
    # `X | None` in an annotation is no arithmetic.
    unions = {id(n) for n in ast.walk(tree) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.BitOr)}
    for node in ast.walk(tree):
        if isinstance(node, kinds) and id(node) not in unions:
            yield node.lineno, f"computes ({type(node).__name__})"


def no_server_at_import(tree: ast.Module) -> Found:
    makers = re.compile(r"MCPServer|FastMCP|Starlette|Settings|(build|create|make)_(server|app)|load_settings")

    def run_at_import(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            main = isinstance(child, ast.If) and "__name__" in ast.dump(child.test)
            if not main and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                yield child
                yield from run_at_import(child)

    for node in run_at_import(tree):
        if isinstance(node, ast.Call) and makers.fullmatch(dotted(node.func).rpartition(".")[2]):
            yield node.lineno, f"calls {dotted(node.func)} when it is imported"


def no_waiting_and_no_process(tree: ast.Module) -> Found:
    yield from no_import("multiprocessing", "docker")(tree)
    # Pulumi's automation has values to build as well as the engine to run.
    starts = re.compile(
        r"subprocess\.(run|Popen|call|check_\w+|getoutput)|os\.(system|popen|fork|spawn\w+|exec\w+)"
        r"|(automation\.)?(create_or_select_stack|create_stack|select_stack|LocalWorkspace|PulumiCommand)"
    )
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            if starts.fullmatch(name) or name.rpartition(".")[2].startswith("create_subprocess_"):
                yield node.lineno, f"starts a process ({name})"
        if isinstance(node, ast.Call) and re.search(r"(^|\.)sleep$", dotted(node.func)):
            (first, *_) = [*node.args, None]
            if not (isinstance(first, ast.Constant) and first.value == 0):
                yield node.lineno, f"waits ({dotted(node.func)})"


def no_open_door(tree: ast.Module) -> Found:
    def is_open(node: ast.AST | None) -> bool:
        return isinstance(node, ast.Constant) and node.value in {"0.0.0.0", "::"}  # noqa: S104, what we look for

    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in {"host", "bind", "address"} and is_open(node.value):
            yield node.value.lineno, f"binds {node.arg} to every interface"
        elif isinstance(node, ast.arguments):
            yield from (
                (d.lineno, "has every interface as default")
                for d in [*node.defaults, *node.kw_defaults]
                if d and is_open(d)
            )
        elif isinstance(node, (ast.AnnAssign, ast.Assign)) and is_open(node.value):
            yield node.lineno, "has every interface as default"


FOLDER_OF_OURS = re.compile(r"(?<![\w-])(mcp_server|mcp_client|local_cloud|devtools|examples|packages|infra|tests)/")


def no_folder_of_this_checkout(tree: ast.Module) -> Found:
    yield from (
        (line, f"knows a folder of this checkout: {text!r}")
        for line, text in texts(tree)
        if FOLDER_OF_OURS.search(text)
    )
    yield from ((line, "asks where it stands itself") for line, word in words(tree) if word == "__file__")


def no_component_name(tree: ast.Module) -> Found:
    return ((line, f"knows the component {text!r}") for line, text in texts(tree) if "mcpfleet:index:" in text)


FLOORS = {
    "state": "",
    "rest": "state",
    "network": "",
    "gateway": "",
    "docker_engine": "",
    "identity": "state rest",
    "data_plane": "state identity network gateway docker_engine",
    "registry": "state rest",
    "plugins": "docker_engine",
    "services": "state rest identity data_plane registry plugins",
    "front_end": "state rest identity network data_plane services",
}
"""Of each room of the local cloud: those below it, which it may import. The top puts them together; `plugins` serve a
Pulumi engine and know no cloud, but for the builder that they share with Cloud Build; `commands` start it all."""


GATEWAY_MODULES = ("protocol", "relay", "resolver", "container")
THERE = rf"(?!mcpfleet_local_cloud\.gateway\.({'|'.join(GATEWAY_MODULES)})(\.|$))"
"""No name of a module of ours that is in the gateway container (`gateway/program.py` puts them there)."""


def floor(room: str) -> Rule:
    """A room of the local cloud imports those below it alone."""
    below = [rf"{each}(\.|$)" for each in (room, *FLOORS[room].split())]
    above = next((each for each in reversed(FLOORS) if each not in (room, *FLOORS[room].split())), "cloud")
    return Rule(
        f"the local cloud's room {room} imports only what is below it",
        (f"local_cloud/mcpfleet_local_cloud/{room}",),
        no_import(rf"mcpfleet_local_cloud\.(?!{'|'.join(below)})\w+"),
        (
            f"from mcpfleet_local_cloud.{above} import routes",
            f"from mcpfleet_local_cloud import {above}",
            "import mcpfleet_local_cloud.cloud",
            "from mcpfleet_local_cloud.commands import stack",
        ),
        f"from mcpfleet_local_cloud.{room}.here import A\nfrom mcpfleet_local_cloud import {room}",
    )


RULES = [
    Rule(
        "the program names no cloud resource",
        ("__main__.py",),
        no_import("pulumi_gcp", "pulumi_docker_build"),
        ("import pulumi_gcp as gcp",),
        "import pulumi",
    ),
    Rule(
        "vocabulary, names, tokens and environment know no Pulumi",
        tuple(f"{INFRA[0]}/{part}" for part in ("fleet", "sources", "naming.py", "tokens.py", "environment.py")),
        no_import(r"pulumi(?!_mcpfleet)\w*"),
        ("import pulumi", "from pulumi_gcp import run", "def f():\n    import pulumi.x", "import_module('pulumi')"),
        "import pydantic\nfrom pulumi_mcpfleet import naming\n'import pulumi'",
    ),
    Rule(
        "names are the same in every run",
        ("infra/pulumi_mcpfleet/naming.py", "infra/pulumi_mcpfleet/tokens.py"),
        no_import("random", "secrets", "uuid", "time", "datetime", "os"),
        ("import uuid", "from random import choice"),
        "import re",
    ),
    Rule(
        "infra knows no local cloud and no tool",
        ("__main__.py", *INFRA),
        no_import("mcpfleet_local_cloud", "devtools", "mcpfleet", "mcp_server", "mcpfleet_server"),
        ("import mcpfleet_local_cloud.state.store", "from mcpfleet import client"),
        "from pulumi_mcpfleet import naming",
    ),
    Rule(
        "infra works in any folder: it knows none of this checkout",
        INFRA,
        no_folder_of_this_checkout,
        ("Path(__file__).parents[2]", "context = 'packages/mcpfleet-bridge'", "x = f'{root}/mcp_server/Dockerfile'"),
        "resources.files('mcpfleet_bridge')\nplace = root / 'mcpfleet_server'",
    ),
    Rule(
        "the provider that has images built knows no other room",
        (CLOUD_BUILD,),
        no_import(
            r"pulumi_mcpfleet(?!\.cloud_build)", "devtools", "mcpfleet", r"mcpfleet_\w+", "pulumi_gcp"
        ),
        ("from pulumi_mcpfleet import naming", "import mcpfleet_local_cloud.rest.errors", "import pulumi_gcp"),
        "from pulumi.runtime import rpc\nimport google.auth",
    ),
    Rule(
        "infra is not the provider",
        ("__main__.py", *INFRA),
        no_import(r"pulumi_mcpfleet\.cloud_build(?!\.peers)"),
        ("from pulumi_mcpfleet.cloud_build import image", "import pulumi_mcpfleet.cloud_build.archive"),
        "from pulumi_mcpfleet.components import cloud_build\nfrom pulumi_mcpfleet.cloud_build.peers import may_call",
        exempt=f"^{CLOUD_BUILD}/",
    ),
    Rule(
        "containers know nothing of what deploys them",
        CONTAINERS,
        no_import(r"pulumi\w*", "mcpfleet_local_cloud", "devtools"),
        ("import pulumi_mcpfleet", "from mcpfleet_local_cloud.state.store import Store", "import pulumi_gcp"),
        "import mcp\nimport infrared",
    ),
    Rule(
        "a container knows no other",
        (BRIDGE, LOGIN, SERVER),
        no_import("mcp_server", "mcp_client", "mcpfleet"),
        ("from mcp_server.app import build_server",),
        "import mcp_types",
    ),
    Rule(
        "the bridge, and the base that it shares with servers, do without the SDK and without pydantic",
        (BRIDGE, SERVER),
        no_import("mcp", "mcp_types", r"pydantic\w*", "starlette", "fastmcp", r"mcpfleet_server\.hosting"),
        ("import mcp_types", "from pydantic import BaseModel", "from mcpfleet_server.hosting import serve"),
        "import msgspec\nfrom mcpfleet_server import logs",
        exempt=f"^{SERVER}/mcpfleet_server/(hosting/|__init__)",
    ),
    Rule(
        "the command and client library know neither infra nor the local cloud",
        (FLEET,),
        no_import("pulumi_mcpfleet", "mcpfleet_local_cloud", "devtools"),
        ("from pulumi_mcpfleet.outputs import ServerOutput",),
        "command = ['python', '-m', 'mcpfleet_local_cloud']",
        exempt=f"^{FLEET}/mcpfleet/template/",  # the files of a user's project
    ),
    Rule(
        "the local cloud knows no component and no program of ours",
        ("local_cloud",),
        no_import(r"pulumi_mcpfleet(?!\.cloud_build)", "mcp_server", "mcpfleet"),
        ("from pulumi_mcpfleet import naming",),
        "import pulumi",
        exempt=f"^{COMMANDS}/",
    ),
    Rule(
        "the local cloud knows no component by its token",
        ("local_cloud",),
        no_component_name,
        ("TYPE = 'mcpfleet:index:McpServer'",),
        '"""Not for mcpfleet:index:McpServer."""\nTYPE = "gcp:cloudrunv2/service:Service"',
        exempt=f"^{COMMANDS}/",
    ),
    Rule(
        "the local cloud binds loopback unless told otherwise",
        ("local_cloud",),
        no_open_door,
        ("run(host='0.0.0.0')", "def serve(host='0.0.0.0'): ...", "HOST: str = '0.0.0.0'"),
        "run(host='127.0.0.1')\nadvice = 'listen on 0.0.0.0'",
    ),
    Rule(
        "grants are added, never replaced",
        ("__main__.py", *INFRA),
        no_authoritative_iam,
        ("gcp.cloudrunv2.ServiceIamBinding('x')", "gcp.projects.IAMPolicy('x')", "from x import iam_binding"),
        '"""No IamBinding here."""\ngcp.cloudrunv2.ServiceIamMember("x")\ngcp.projects.IAMMember("x")',
    ),
    Rule(
        "nothing that is deployed knows which cloud it is in",
        ("__main__.py", *INFRA, *CONTAINERS),
        no_branch_on_surroundings,
        (
            "if pulumi.get_stack() == 'x': ...",
            "from pulumi import get_stack",
            "if stack == 'local': ...",
            "kind = {'local': 1}",
            "x = 1 if is_local else 2",
            "match name:\n    case 'local': ...",
        ),
        '"""The local cloud."""\nhosts = ["localhost"]\nif locale: ...\nthreading.local()',
        exempt=r"/tests/",
    ),
    Rule(
        "infra reads config files, not the environment",
        ("__main__.py", *INFRA),
        no_environment,
        ("os.environ['X']", "from os import getenv"),
        "pulumi.Config('gcp').require('project')",
        exempt=f"^{CLOUD_BUILD}/",
    ),
    Rule(
        "containers read the environment in settings.py and CallerMiddleware only",
        CONTAINERS,
        no_environment,
        ("os.environ.get('X')", "getenv('X')"),
        "settings.port",
        # CallerMiddleware is for servers that don't have our settings.
        exempt=r"/settings\.py$|/mcpfleet_server/caller\.py$|/tests/",
    ),
    Rule(
        "containers build no server when imported",
        CONTAINERS,
        no_server_at_import,
        ("server = MCPServer('x')", "class A:\n    app = build_app()", "try:\n    s = Settings()\nexcept E: ..."),
        "def build_server():\n    return MCPServer('x')\nif __name__ == '__main__':\n    build_server()",
        exempt=r"/tests/",
    ),
    Rule(
        "components read no config, make no provider, export nothing and keep their children",
        ("infra/pulumi_mcpfleet/components",),
        component_manners,
        (
            "pulumi.Config('x')",
            "pulumi.export('x', 1)",
            "gcp.Provider('x')",
            "pulumi.ResourceOptions.merge(opts, child)",
            "gcp.projects.Service('x', opts=opts)",
        ),
        "super().__init__(TOKEN, name, None, opts)\ngcp.projects.Service('x', opts=child)",
    ),
    Rule(
        "outputs only assemble",
        ("infra/pulumi_mcpfleet/outputs.py",),
        no_computing,
        ("x = f'{a}/mcp'", "x = 3000 + i", "x = a if b else c"),
        "def f(a: int | None):\n    return {name: value for name, value in a}",
    ),
    Rule(
        "unit tests start no process and never wait",
        ("tests/unit",),
        no_waiting_and_no_process,
        (
            "subprocess.run(['x'])",
            "asyncio.create_subprocess_exec('x')",
            "time.sleep(1)",
            "await asyncio.sleep(delay)",
            "from docker import client",
            "automation.create_or_select_stack('x')",
        ),
        "automation.Deployment()\nawait asyncio.sleep(0)\nimport subprocess\n"
        "monkeypatch.setattr(subprocess, 'run', fake)",
    ),
    Rule(
        "integration tests are the same for every cloud",
        ("tests/integration",),
        no_local_condition,
        ("if local: ...", "if not config.is_local: ...", "x = 1 if where == 'local' else 2"),
        "if local_cloud.is_running(): ...\nstack = 'local'",
    ),
    Rule(
        "of the data plane the APIs and the front end know the contract",
        tuple(f"local_cloud/mcpfleet_local_cloud/{room}" for room in ("services", "front_end")),
        no_import(r"mcpfleet_local_cloud\.data_plane\.(?!contract)\w+"),
        ("from mcpfleet_local_cloud.data_plane import plane", "import mcpfleet_local_cloud.data_plane.pool"),
        "from mcpfleet_local_cloud.data_plane.contract import Revision",
        exempt=r"/ingress\.py$",  # picks the instance, and so knows the pool
    ),
    Rule(
        "what runs in the gateway container has the standard library alone",
        tuple(f"local_cloud/mcpfleet_local_cloud/gateway/{name}.py" for name in GATEWAY_MODULES),
        no_import(rf"(?!({'|'.join(sorted(sys.stdlib_module_names))})(\.|$)){THERE}\w+"),
        (
            "import uvloop",
            "from mcpfleet_local_cloud.gateway import names",
            "import mcpfleet_local_cloud.gateway.tunnel",
        ),
        "import asyncio\nfrom mcpfleet_local_cloud.gateway import protocol\nimport mcpfleet_local_cloud.gateway.relay",
    ),
    *(floor(room) for room in FLOORS),
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_boundary(rule):
    found = [
        f"{file.relative_to(ROOT)}:{line}: {reason}"
        for file in rule.files()
        for line, reason in rule.check(ast.parse(file.read_text(), str(file)))
    ]
    assert not found, f"{rule.name}:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("rule", "snippet"), [pytest.param(r, v, id=f"{r.name}: {v}") for r in RULES for v in r.violations]
)
def test_a_rule_finds_its_violation(rule, snippet):
    wrapped = f"async def f():\n    {snippet}" if snippet.startswith("await") else snippet
    assert list(rule.check(ast.parse(wrapped)))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_passes_the_permitted_form(rule):
    lines = rule.permitted.split("\n")
    permitted = "async def f():\n    " + "\n    ".join(lines) if "await" in rule.permitted else rule.permitted
    assert list(rule.check(ast.parse(permitted))) == []


@pytest.mark.parametrize(
    "room",
    [
        "__main__.py",
        CLOUD_BUILD,
        "infra/pulumi_mcpfleet/fleet",
        "infra/pulumi_mcpfleet/components",
        "mcp_server",
        SERVER,
        BRIDGE,
        LOGIN,
        FLEET,
        "local_cloud",
    ],
)
def test_there_is_something_to_scan(room):
    rules = [rule for rule in RULES if any(room.startswith(name) for name in rule.rooms)]
    assert rules
    assert any(any((ROOT / room) in (file, *file.parents) for file in rule.files()) for rule in rules)


def test_every_component_and_every_part_of_the_vocabulary_is_scanned():
    scanned = {file.relative_to(ROOT).as_posix() for rule in RULES for file in rule.files()}
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "infra").rglob("*.py")} <= scanned


def test_every_room_of_the_local_cloud_has_its_floor():
    rooms = {each.parent.name for each in (ROOT / COMMANDS).parent.glob("*/__init__.py")}
    assert rooms == {*FLOORS, "commands"}


def module_of(file: Path) -> str:
    """What a file of the product is imported as: packages begin below the folder that holds their pyproject.toml."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts[{"packages": 2, "infra": 1, "local_cloud": 1}.get(parts[0], 0) :])
    return name.removesuffix(".__init__")


def needed_at_import(tree: ast.Module) -> Iterator[str]:
    """What a module imports when it is imported itself; within a function, or for types alone, is later or never."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_module_needs_itself():
    """Of `from package import name` the module of that name is needed, else the package."""
    rooms = ("infra", "packages", "local_cloud", "mcp_server", "mcp_client", "devtools")
    files = {module_of(file): file for room in rooms for file in sorted((ROOT / room).rglob("*.py"))}
    needs: dict[str, set[str]] = {}
    for module, file in files.items():
        named = needed_at_import(ast.parse(file.read_text(encoding="utf-8")))
        found = {name if name in files else name.rpartition(".")[0] for name in named}
        needs[module] = (found & files.keys()) - {module}
    assert len(needs) > 300
    assert list(TopologicalSorter(needs).static_order())  # raises CycleError, which names the circle
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()


def test_the_package_of_the_components_loads_none_of_them_before_it_is_named():
    """The vocabulary, the sources and the build provider are below it, and need no Pulumi."""
    tree = ast.parse((ROOT / INFRA[0] / "__init__.py").read_text(encoding="utf-8"))
    assert {name.partition(".")[0] for name in needed_at_import(tree)} <= sys.stdlib_module_names


def test_no_file_of_the_product_stands_twice():
    rooms = ("infra", "packages", "local_cloud", "mcp_server", "mcp_client", "devtools")
    contents = Counter(file.read_text() for room in rooms for file in (ROOT / room).rglob("*.py"))
    assert [text[:200] for text, count in contents.items() if count > 1 and text] == []


def test_the_program_stays_short_enough_to_be_read_at_once():
    assert len((ROOT / "__main__.py").read_text().splitlines()) < 60


def test_the_fleet_and_the_reader_of_its_outputs_hold_the_same_characters_for_seen():
    """`infra` and `mcpfleet` cannot share a module; a reason that one takes and the other refuses would be useless."""
    differ = [code for code in range(sys.maxunicode + 1) if is_visible(chr(code)) != (inert(chr(code)) == chr(code))]
    assert not differ


# --- what an image lacks ------------------------------------------------------------------------------

IMAGES = {
    "mcp_server": ("mcp_server",),
    "mcp_client": ("mcp_client",),
    "agent on ADK": ("examples/agent/adk", "examples/agent/main.py"),
    "agent on Pydantic AI": ("examples/agent/pydantic-ai", "examples/agent/main.py"),
}
"""Of each image: the folder with its lock, and what else it runs."""

PLACES = (ROOT, ROOT / "infra", ROOT / "local_cloud", *sorted((ROOT / "packages").iterdir()))
"""The folders in which packages of ours are."""


def files_of(module: str) -> list[Path]:
    """The file of a module of ours, and of each package above it, whose code runs too."""
    parts = module.split(".")
    ways = [place.joinpath(*parts[:count]) for place in PLACES for count in range(1, len(parts) + 1)]
    return [file for way in ways for file in (way.with_suffix(".py"), way / "__init__.py") if file.is_file()]


def reached(start: list[Path]) -> dict[str, Path]:
    """Top-level names of others' packages that some files reach through ours, and a file that imports each."""
    todo, seen, found = list(start), set[Path](), dict[str, Path]()
    while todo:
        file = todo.pop()
        if file in seen:
            continue
        seen.add(file)
        for name in (name for _, name in imported(ast.parse(file.read_text()))):
            ours = files_of(name)
            todo += ours
            if not ours:
                found.setdefault(name.partition(".")[0], file)
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_installs_whatever_its_program_imports(image):
    places = [ROOT / place for place in IMAGES[image]]
    start = [file for place in places for file in (place.rglob("*.py") if place.is_dir() else [place])]
    packages = tomllib.loads((places[0] / "uv.lock").read_text())["package"]
    # Here installed under its whole name, there perhaps as its slim part.
    locked = {canonical(package["name"]).removesuffix("-slim") for package in packages}
    beside = {file.stem for file in start}
    providers = packages_distributions()
    lacking = {
        name: file.relative_to(ROOT).as_posix()
        for name, file in reached(start).items()
        if name not in sys.stdlib_module_names
        and name not in beside
        and not {canonical(each).removesuffix("-slim") for each in providers.get(name, [name])} & locked
    }
    assert lacking == {}
