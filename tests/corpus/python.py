"""Python repositories: start commands, stdio servers, and requirements of the installation."""

import json

from tests.corpus.case import Case
from tests.corpus.servers import (
    FASTMCP,
    FASTMCP_APP,
    FASTMCP_OBJECT,
    PACKAGE,
    PLAIN,
    PY_HTTP,
    PY_STDIO,
    SDK_ONE,
    SDK_STDIO,
    project,
)

# ruff: noqa: E501
# Tables, which read best with a case to a line.

_FAST = {"requirements.txt": "fastmcp==4.1.*\n"}
_INI = '[[package]]\nname = "iniconfig"\nversion = "2.1.0"\nsource = { registry = "https://pypi.org/simple" }\nwheels = [\n    { url = "https://files.pythonhosted.org/packages/2c/e1/e6716421ea10d38022b952c159d5161ca1193197fb744506875fbb87ea7b/iniconfig-2.1.0-py3-none-any.whl", hash = "sha256:9deba5723312380e77435581c6bf4935c94cbfab9b1ed33ef8d238ea168eb760", size = 6050 },\n]\n\n'
_UV_HEAD = 'version = 1\nrevision = 3\nrequires-python = ">=3.10"\n\n'
UV_LOCK = (
    _UV_HEAD
    + _INI
    + '[[package]]\nname = "weather-mcp"\nversion = "0.1.0"\nsource = { editable = "." }\ndependencies = [\n    { name = "iniconfig" },\n]\n\n[package.metadata]\nrequires-dist = [{ name = "iniconfig", specifier = "==2.1.0" }]\n'
)
_WORKSPACE_LOCK = (
    _UV_HEAD + '[manifest]\nmembers = [\n    "acme-core",\n    "acme-server",\n]\n\n'
    '[[package]]\nname = "acme-core"\nversion = "0.1.0"\nsource = { editable = "packages/core" }\ndependencies = [\n    { name = "iniconfig" },\n]\n\n[package.metadata]\nrequires-dist = [{ name = "iniconfig", specifier = "==2.1.0" }]\n\n'
    '[[package]]\nname = "acme-server"\nversion = "0.1.0"\nsource = { editable = "packages/server" }\ndependencies = [\n    { name = "acme-core" },\n]\n\n[package.metadata]\nrequires-dist = [{ name = "acme-core", editable = "packages/core" }]\n\n' + _INI
)  # fmt: skip
UV_WORKSPACE = {
    "pyproject.toml": '[tool.uv.workspace]\nmembers = ["packages/*"]\n',
    "uv.lock": _WORKSPACE_LOCK,
    "packages/core/pyproject.toml": project("acme-core"),
    "packages/core/src/acme_core/__init__.py": PY_HTTP,
    "packages/server/pyproject.toml": project(
        "acme-server",
        needs='"acme-core"',
        script="acme_server:main",
        more="[tool.uv.sources]\nacme-core = { workspace = true }\n",
    ),
    "packages/server/src/acme_server/__init__.py": "from acme_core import main\n",
}
_MEMBER = "acme-server in packages/server is the member of the workspace that is served (`package`)"
_SCM = '[build-system]\nrequires = ["setuptools>=77", "setuptools-scm>=8"]\nbuild-backend = "setuptools.build_meta"\n[tool.setuptools_scm]\n'
_VCS = '[build-system]\nrequires = ["hatchling", "hatch-vcs"]\nbuild-backend = "hatchling.build"\n[tool.hatch.version]\nsource = "vcs"\n'


def _dynamic(build):
    text = project(script="weather_mcp:main", build="").replace('version = "0.1.0"', 'dynamic = ["version"]')
    return {"pyproject.toml": text + build, "src/weather_mcp/__init__.py": PY_HTTP}


def _quiet(code, needs='"mcp==2.3.*"', **files):
    return {
        "pyproject.toml": project(needs=needs, script="weather_mcp:main"),
        "src/weather_mcp/__init__.py": code,
        **files,
    }


def smithery(function, kind="stdio"):
    return json.dumps({"startCommand": {"type": kind, "commandFunction": function}})


def _fastmcp_json(**more):
    return json.dumps({"source": {"path": "server.py", "entrypoint": "mcp"}, "environment": {"python": "3.12"}, **more})


_READY = [{"registryType": "pypi", "identifier": "weather-mcp", "transport": {"type": "stdio"}}]

CASES = {
    # --- how it starts
    "a Procfile": Case(
        {"requirements.txt": "fastmcp==4.1.*\nuvicorn\n", "Procfile": "release: true\nweb: uvicorn app:app --host 0.0.0.0 --port $PORT\n", "app.py": FASTMCP_APP},
        decided=["web of the Procfile"], lines=['CMD ["sh", "-c", "exec uvicorn app:app --host 0.0.0.0 --port \\"$PORT\\""]'], answers=True,
    ),
    "a Procfile that uv runs": Case({**PACKAGE, "Procfile": "web: uv run weather-mcp --http\n"}, lines=['CMD ["weather-mcp", "--http"]']),
    "a Procfile that wants a shell": Case({**PLAIN, "Procfile": "web: python migrate.py; python server.py\n"}, refused={"start": "web of the Procfile is 'python migrate.py; python server.py', which needs more of a shell"}),
    "a Procfile without web": Case({**PLAIN, "Procfile": "worker: python x.py\n"}, lines=['CMD ["python", "server.py"]']),
    "fastmcp.json": Case({**_FAST, "server.py": FASTMCP_OBJECT, "fastmcp.json": _fastmcp_json()}, lines=['CMD ["fastmcp", "run", "fastmcp.json", "--skip-env"]'], answers=True),
    "fastmcp.json for another network": Case(
        {**_FAST, "server.py": FASTMCP_OBJECT, "fastmcp.json": _fastmcp_json(deployment={"transport": "http", "host": "127.0.0.1", "port": 3000})},
        lines=['exec fastmcp run fastmcp.json --skip-env --transport http --host 0.0.0.0 --port \\"$PORT\\"'], answers=True,
    ),
    "fastmcp.json that begins nowhere": Case({**_FAST, "fastmcp.json": _fastmcp_json()}, refused={"start": "fastmcp.json begins at 'server.py', which is not in the source"}),
    "a server that nothing starts": Case({**_FAST, "server.py": FASTMCP_OBJECT}, decided=["server.py has the server mcp"], lines=['CMD ["fastmcp", "run", "server.py:mcp", "--skip-env"]']),
    "an application that nothing starts": Case({**_FAST, "app.py": FASTMCP_APP}, decided=["app.py has the application app"], lines=["exec uvicorn app:app --host 0.0.0.0"], answers=True),
    "a file with neither a main guard nor a server": Case({**PLAIN, "server.py": "def main():\n    pass\n"}, refused={"start": "server.py has neither a main guard nor a server that could be started"}),
    "two files, of which one starts": Case({**PLAIN, "app.py": "def helper():\n    pass\n"}, lines=['CMD ["python", "server.py"]']),
    "two files that start": Case({**PLAIN, "main.py": PY_HTTP}, refused={"start": "any of main.py, server.py may be where it begins"}),
    "scripts without a build system, which lie at the top": Case(
        {"pyproject.toml": project(script="main:main", build=""), "main.py": PY_HTTP, "helpers.py": ""},
        lines=['CMD ["python", "-c", "import sys; from main import main; sys.exit(main())"]', "-r pyproject.toml"], answers=True,
    ),
    "scripts without a build system, which lie elsewhere": Case(
        {"pyproject.toml": project(script="weather_mcp:main", build=""), "src/weather_mcp/__init__.py": PY_HTTP},
        refused={"start": "has the script weather-mcp, but no [build-system], so that nothing installs it"},
    ),
    "scripts of a project that uv takes for a package": Case(
        {"pyproject.toml": project(script="weather_mcp:main", build="", more="[tool.uv]\npackage = true\n"), "uv.lock": UV_LOCK, "src/weather_mcp/__init__.py": PY_HTTP},
        lines=["--no-editable", 'CMD ["weather-mcp"]'],
    ),
    "scripts of setup.cfg": Case(
        {"setup.cfg": "[metadata]\nname = x\n[options.entry_points]\nconsole_scripts =\n    weather = weather:main\n", "setup.py": "", "weather/__init__.py": PY_HTTP}, lines=['CMD ["weather"]']
    ),
    "arguments behind what is found out": Case(PACKAGE, wish={"args": ["--verbose"]}, lines=['CMD ["weather-mcp", "--verbose"]']),
    # --- what it speaks
    "the SDK's run() without a transport": Case(_quiet(SDK_STDIO), refused={"speaks": "src/weather_mcp/__init__.py calls run() of the MCP SDK without a transport. Write speaks: stdio"}),
    "the same behind the bridge": Case(_quiet(SDK_STDIO), wish={"speaks": "stdio"}, lines=["FROM tools AS bridge"], answers=True),
    "the same, and its user knows better": Case(_quiet(SDK_STDIO), wish={"speaks": "http"}, lines=['CMD ["weather-mcp"]']),
    "stdio_server of the SDK": Case({**PLAIN, "server.py": "import asyncio\nasync def main():\n    async with stdio_server() as s:\n        pass\nasyncio.run(main())\n"}, refused={"speaks": "server.py has stdio_server."}),
    "a transport that is written": Case({**_FAST, "server.py": FASTMCP.replace("mcp.run()", 'mcp.run(transport="stdio")')}, refused={"speaks": "server.py has transport"}),
    "FastMCP's run(), which asks the environment": Case({**_FAST, "server.py": FASTMCP}, lines=['CMD ["python", "server.py"]'], answers=True),
    "both transports, by an option": Case(_quiet(SDK_STDIO + '# parser.add_argument("--transport", default="stdio")\n'), lines=['CMD ["weather-mcp"]']),
    "stdio in a test alone": Case({**PLAIN, "tests/test_server.py": "stdio_server()\n"}, lines=['CMD ["python", "server.py"]']),
    "smithery.yaml": Case({**PLAIN, "server.py": PY_STDIO, "smithery.yaml": "startCommand:\n  type: stdio\n"}, refused={"speaks": "smithery.yaml says type: stdio"}),
    "smithery.yaml that says HTTP": Case({**PLAIN, "server.py": PY_STDIO, "smithery.yaml": "startCommand:\n  type: http\n"}, lines=['CMD ["python", "server.py"]']),
    "smithery.yaml that says how it starts": Case(
        {**PLAIN, "server.py": PY_STDIO, "main.py": PY_STDIO, "smithery.yaml": smithery("""(config) => ({ command: 'python', args: ["server.py", '--units', 'metric',], env: { KEY: config.key } })""")},
        wish={"speaks": "stdio"}, lines=['"server.py\\", \\"--units\\", \\"metric\\"'], decided=["python server.py --units metric: commandFunction of smithery.yaml (`start`)"],
    ),
    "smithery.yaml with uv before a script": Case(
        _quiet(SDK_STDIO, **{"smithery.yaml": smithery("""() => ({command: "uv", args: ["run", "weather-mcp", "-v"]})""")}), wish={"speaks": "stdio"}, decided=["weather-mcp -v: commandFunction of smithery.yaml"],
    ),
    "smithery.yaml whose start is code": Case(
        {**PLAIN, "smithery.yaml": smithery("""(c) => ({command: 'python', args: ['other.py', c.key]})""")}, wish={"speaks": "stdio"}, decided=["python server.py: server.py is where it begins"],
    ),
    "smithery.yaml that starts what is published": Case(
        {**PLAIN, "smithery.yaml": smithery("""(c) => ({command: 'uvx', args: ['weather-mcp']})""")}, wish={"speaks": "stdio"}, decided=["python server.py: server.py is where it begins"],
    ),
    "smithery.yaml for the other transport": Case(
        {**PLAIN, "smithery.yaml": smithery("""(c) => ({command: 'python', args: ['server.py', 'x']})""")}, wish={"speaks": "http"}, decided=["python server.py: server.py is where it begins"],
    ),
    "server.json with arguments": Case(
        _quiet(SDK_STDIO, **{"server.json": json.dumps({"packages": [_READY[0] | {"packageArguments": [{"type": "positional", "value": "serve"}]}]})}),
        wish={"speaks": "stdio"}, decided=["weather-mcp serve: the package of server.json (`start`)"],
    ),
    "server.json that says HTTP": Case(
        {**PLAIN, "server.py": PY_STDIO, "server.json": json.dumps({"packages": [_READY[0] | {"transport": {"type": "streamable-http", "url": "http://127.0.0.1:8000/mcp"}}]})},
        lines=['CMD ["python", "server.py"]'],
    ),
    "server.json that says which language": Case({**PLAIN, "package.json": "{}", "server.json": json.dumps({"packages": _READY})}, wish={"speaks": "http"}, lines=['CMD ["python", "server.py"]']),
    "a server.json of something else": Case({**PLAIN, "server.json": "[1, 2]"}, lines=['CMD ["python", "server.py"]']),
    "server.json of the MCP registry": Case({**PLAIN, "server.py": PY_STDIO, "server.json": json.dumps({"name": "x", "packages": _READY})}, refused={"speaks": "server.json says transport: stdio"}),
    "a desktop extension": Case({**PLAIN, "server.py": PY_STDIO, "manifest.json": json.dumps({"server": {"mcp_config": {"command": "python"}}})}, refused={"speaks": "manifest.json is a desktop extension's"}),
    "a plain script that speaks stdio, behind the bridge": Case({**PLAIN, "server.py": PY_STDIO}, wish={"speaks": "stdio"}, answers=True),
    "stdio by arguments of the user's that say http": Case(_quiet(SDK_STDIO), wish={"start": ["weather-mcp", "--transport", "http"]}, lines=["CMD"]),
    "Node.js that speaks stdio": Case(
        {"package.json": '{"name": "x", "main": "i.js"}', "package-lock.json": "{}", "i.js": "const t = new StdioServerTransport();\n"}, refused={"speaks": "i.js has new StdioServerTransport"}
    ),
    "Node.js that speaks both": Case(
        {"package.json": '{"name": "x", "main": "i.js"}', "package-lock.json": "{}", "i.js": "process.env.PORT ? http() : new StdioServerTransport();\n"}, lines=['CMD ["node", "i.js"]']
    ),
    "Node.js that speaks both, HTTP in a file too deep to be seen": Case(
        {"package.json": '{"name": "x", "main": "i.js"}', "package-lock.json": "{}", "i.js": 'const { start } = require("./src/transports/http.js");\nnew StdioServerTransport();\n'}, lines=['CMD ["node", "i.js"]']
    ),
    "Python that speaks both, HTTP in a file too deep to be seen": Case(
        {**PLAIN, "server.py": "from weather.transports.http_server import serve\nasync def main():\n    async with stdio_server() as s:\n        pass\nasyncio.run(main())\n"}, lines=['CMD ["python", "server.py"]']
    ),
    # --- what its installation needs
    "uv, a package with its lock file": Case({**PACKAGE, "uv.lock": UV_LOCK}, lines=["COPY pyproject.toml uv.lock ./\nRUN uv sync --frozen --no-dev --no-install-project\n"], answers=True),
    "uv with settings of its own": Case({**PACKAGE, "uv.lock": UV_LOCK, "uv.toml": ""}, lines=["COPY pyproject.toml uv.lock uv.toml ./"]),
    "uv with a list of sources": Case(
        {"pyproject.toml": project(script="weather_mcp:main", more='[tool.uv.sources]\nx = [{ path = "./x", marker = "sys_platform == \'linux\'" }]\n'), "uv.lock": UV_LOCK}, never=["--no-install-project"]
    ),
    "uv with a folder that only the lock file names": Case({**PACKAGE, "uv.lock": UV_LOCK + '[[package]]\nname = "x"\nsource = { directory = "libs/x" }\n'}, never=["--no-install-project"]),
    "a workspace of uv with one server": Case(UV_WORKSPACE, decided=[_MEMBER], lines=["RUN uv sync --frozen --no-dev --package acme-server --no-editable", "WORKDIR /app/packages/server\n", 'CMD ["acme-server"]'], answers=True),
    "a member of uv's by its folder": Case(UV_WORKSPACE, wish={"package": "packages/server"}, decided=[_MEMBER]),
    "a workspace of uv, without those that it leaves out": Case(
        {**UV_WORKSPACE, "pyproject.toml": '[tool.uv.workspace]\nmembers = ["packages/*"]\nexclude = ["packages/old"]\n', "packages/old/pyproject.toml": project("old", script="old:main")}, decided=[_MEMBER]
    ),
    "a workspace of uv with two servers": Case({**UV_WORKSPACE, "packages/b/pyproject.toml": project("b", script="b:main")}, refused={"package": "acme-server, b may be the server"}),
    "Poetry with a dependency in a folder": Case(
        {"pyproject.toml": '[tool.poetry]\nname = "w"\nversion = "1"\npackage-mode = false\n[tool.poetry.dependencies]\nlib = { path = "lib" }\n', "poetry.lock": "", "main.py": ""}, never=["--no-directory"]
    ),
    "Poetry with settings of its own": Case({"pyproject.toml": '[tool.poetry]\npackage-mode = false\n', "poetry.lock": "", "poetry.toml": "", "main.py": ""}, lines=["COPY pyproject.toml poetry.lock poetry.toml ./"]),
    "requirements.txt with a folder and a wheel": Case(
        {"requirements.txt": "libs/x\n./y-1.0-py3-none-any.whl\n", "server.py": PY_HTTP}, decided=["requirements.txt names files of its own"], lines=["COPY . .\nRUN rm -rf .git .venv venv node_modules .env .mcpfleet-bridge && find . -depth -name .mcpfleet -exec rm -rf {} +\nRUN uv venv"]
    ),
    "requirements.txt with a folder of wheels": Case({"requirements.txt": "--find-links wheels\niniconfig==2.1.0\n", "server.py": PY_HTTP}, decided=["names files of its own"]),
    "requirements.txt with an index and hashes": Case(
        {"requirements.txt": "--index-url https://pypi.org/simple\niniconfig==2.1.0 \\\n    --hash=sha256:9deba5723312380e77435581c6bf4935c94cbfab9b1ed33ef8d238ea168eb760\n", "server.py": PY_HTTP}, lines=["COPY requirements.txt ./"]
    ),
    "requirements.txt in UTF-16": Case({"requirements.txt": b"\xff\xfe" + "iniconfig==2.1.0\r\n".encode("utf-16-le"), "server.py": PY_HTTP}, decided=["requirements: requirements.txt ("], answers=True),
    "pyproject.toml with a byte-order mark": Case(
        {**PACKAGE, "pyproject.toml": b"\xef\xbb\xbf" + PACKAGE["pyproject.toml"].encode()}, lines=["RUN sed -i '1s/^\\xEF\\xBB\\xBF//' pyproject.toml\nRUN uv venv"], answers=True
    ),
    "a README that .dockerignore leaves out": Case(
        {"pyproject.toml": PACKAGE["pyproject.toml"].replace("[project]\n", '[project]\nreadme = "README.md"\nlicense = { file = "LICENSE" }\n'), "README.md": "x\n", "LICENSE": "x\n", ".dockerignore": "*.md\nLICENSE\n", "src/weather_mcp/__init__.py": PY_HTTP},
        lines=["RUN test -e LICENSE || touch LICENSE\nRUN test -e README.md || touch README.md\n"], answers=True,
    ),
    "a README whose name is a command": Case({"pyproject.toml": PACKAGE["pyproject.toml"].replace("[project]\n", '[project]\nreadme = "$(id).md"\n')}, never=["$(id)"]),
    "a version from git's tags, by hatch-vcs": Case(_dynamic(_VCS), decided=["version 0.0.0, which git's tags would say and no build has (`build_args`: SETUPTOOLS_SCM_PRETEND_VERSION)"], lines=["ARG SETUPTOOLS_SCM_PRETEND_VERSION=0.0.0\n"], answers=True),
    "a version from git's tags, by setuptools-scm, at a tag": Case(_dynamic(_SCM), wish={"version": "1.2.0"}, lines=["ARG SETUPTOOLS_SCM_PRETEND_VERSION=1.2.0\n"], answers=True),
    "a version from git's tags, of the user's": Case(
        _dynamic(_SCM), wish={"build_args": {"SETUPTOOLS_SCM_PRETEND_VERSION": "3.0"}}, never=["ARG SETUPTOOLS_SCM_PRETEND_VERSION\n"]
    ),
    "a version from git's tags, by what takes none": Case(_dynamic(_VCS.replace("hatch-vcs", "versioningit")), refused={"dockerfile": "versioningit finds the version in git's tags"}),
    "a version from git's tags, by uv-dynamic-versioning": Case(_dynamic(_VCS.replace("hatch-vcs", "uv-dynamic-versioning")), lines=["ARG UV_DYNAMIC_VERSIONING_BYPASS=0.0.0"]),
    "hatch-vcs beside a version that is written": Case({"pyproject.toml": project(script="a:a", build="") + _VCS}, never=["PRETEND"]),
    "a package that only its source has": Case(
        {"requirements.txt": "iniconfig==2.1.0\npsycopg2==2.9.11\n", "server.py": PY_HTTP}, decided=["gcc, libc6-dev, libpq-dev, python3-dev while it is built and libpq5 while it runs, for psycopg2"],
        lines=["install -y --no-install-recommends gcc libc6-dev libpq-dev python3-dev", "install -y --no-install-recommends libpq5"], answers=True,
    ),
    "its binary package needs nothing": Case({"requirements.txt": "psycopg2-binary==2.9.11\n", "server.py": ""}, never=["apt-get"]),
    "a dependency from a repository": Case({"requirements.txt": "x @ git+https://git.acme.dev/x.git@v1\n", "server.py": ""}, lines=["install -y --no-install-recommends git &&"]),
    "an extra that brings the MCP library": Case(
        {**_quiet(FASTMCP, needs='"iniconfig"'), "pyproject.toml": project(needs='"iniconfig"', script="weather_mcp:main", more='[project.optional-dependencies]\nhttp = ["fastmcp==4.1.*"]\ndev = ["fastmcp", "pytest"]\n')},
        decided=["the extra http is installed, which has the MCP library (`extras`)"], lines=["python '.[http]'"], answers=True,
    ),
    "extras and groups of the user's": Case(
        {**PACKAGE, "uv.lock": UV_LOCK}, wish={"extras": ["http"], "groups": ["prod"]}, lines=["RUN uv sync --frozen --no-dev --extra http --group prod --no-install-project"]
    ),
    "extras of Poetry": Case({"pyproject.toml": '[tool.poetry]\npackage-mode = false\n', "poetry.lock": "", "main.py": ""}, wish={"extras": ["http"], "groups": ["prod"]}, lines=["--only main,prod --compile --extras http"]),
    "extras beside requirements.txt": Case(PLAIN, wish={"extras": ["http"]}, refused={"extras": "is of pyproject.toml, and requirements is what is installed"}),
    "Debian packages for the build": Case(PLAIN, wish={"apt_build": ["gcc"]}, lines=["FROM tools AS build\nWORKDIR /app\nRUN apt-get update && apt-get install -y --no-install-recommends gcc"]),
    "variables for the build": Case(PLAIN, wish={"build_args": {"PIP_INDEX": "https://x"}}, lines=["FROM tools AS build\nWORKDIR /app\nARG PIP_INDEX\n"]),
    # --- drift
    "the SDK's first version in a project without a lock file": Case(
        _quiet(SDK_ONE, needs='"mcp>=1.2"'), wish={"speaks": "stdio"}, decided=["mcp<2: its code imports mcp.server.fastmcp, which 2 does not have any more (`bounds`)"], lines=["python . 'mcp<2'\n"], answers=True,
    ),
    "the same with a bound of its own": Case(_quiet(SDK_ONE, needs='"mcp>=1.2,<2"'), wish={"speaks": "stdio"}, never=["'mcp<2'"]),
    "the same in requirements.txt": Case({"requirements.txt": "mcp\n", "server.py": SDK_ONE}, wish={"speaks": "stdio"}, lines=["-r requirements.txt 'mcp<2'\n"]),
    "bounds and a date of the user's": Case(PACKAGE, wish={"bounds": ["anyio<5"], "before": "2026-06-01"}, decided=["the newest versions of 2026-06-01"], lines=["python . 'anyio<5' --exclude-newer 2026-06-01\n"]),
    "bounds beside a lock file": Case({**PACKAGE, "uv.lock": UV_LOCK}, wish={"bounds": ["anyio<5"]}, refused={"bounds": "has no effect, because the lock file has each version"}),
    # --- keys that fit elsewhere
    "a stage of a Dockerfile of its own": Case({"Dockerfile": "FROM scratch AS prod", **PLAIN}, wish={"target": "prod"}, decided=["prod of the repository's own Dockerfile (`target`)"], own=True),
    "arguments for a Dockerfile of its own": Case({"Dockerfile": "FROM scratch", **PLAIN}, wish={"args": ["--http"]}, decided=["the repository's own Dockerfile (`dockerfile`)"], own=True),
    "a stage of a Dockerfile that is made": Case(PLAIN, wish={"target": "prod"}, refused={"target": "is for a source with its own Dockerfile"}),
    "keys for Python beside Node.js": Case({"package.json": "{}"}, wish={"extras": ["a"], "bounds": ["b"]}, refused={"extras": "is for Python", "bounds": "is for Python"}),
}  # fmt: skip
