"""All layouts of the corpus, by group."""

from dataclasses import replace

from tests.corpus import decisions, node, python, versions

_PARTS = (decisions, versions, node, python)

_WHOLE = (
    ".python-version that the base image has",
    ".python-version with a comment, an implementation and a second line",
    ".python-version of another implementation",
    ".tool-versions of asdf or mise",
    "runtime.txt of Heroku",
    "requires-python of one patch of what there is",
    "a uv as new as ours",
    ".nvmrc that can be had",
    ".nvmrc by its code name",
    ".nvmrc of the newest",
    ".nvmrc that engines do not allow",
    ".nvmrc of a Node.js that nobody has",
    ".node-version",
    ".tool-versions with nodejs",
    "volta",
    "engines of a later patch",
    "engines that several meet",
    "devEngines",
    "devEngines that only warn",
    "yarn 1 with its own release",
    "pnpm's hooks",
    "engines of an older pnpm",
    "devEngines name the package manager",
    "a bin that prepack makes",
    "a bin that the installation makes",
    "a workspace in yarn's long form",
    "a Procfile that uv runs",
    "a Procfile without web",
    "a server that nothing starts",
    "two files, of which one starts",
    "scripts of a project that uv takes for a package",
    "arguments behind what is found out",
    "stdio in a test alone",
    "uv with settings of its own",
    "a member of uv's by its folder",
    "a workspace of uv, without those that it leaves out",
    "requirements.txt with an index and hashes",
    "a version from git's tags, of the user's",
    "Debian packages for the build",
    "variables for the build",
    "the same with a bound of its own",
    "the same in requirements.txt",
    "bounds and a date of the user's",
)
"""Besides those that say so themselves: whole servers, each like another one but for one file."""

CASES = {name: case for part in _PARTS for name, case in part.CASES.items()}
assert len(CASES) == sum(len(part.CASES) for part in _PARTS), "two layouts have one name"
CASES = {name: replace(case, answers=case.answers or name in _WHOLE) for name, case in CASES.items()}
assert CASES.keys() >= {*_WHOLE}, "a layout has another name now"
