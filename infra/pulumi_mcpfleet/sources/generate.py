"""Which kind of repository a folder is, and the recipe that follows."""

import re
from dataclasses import replace
from typing import Final

from pulumi_mcpfleet.sources.build_plan import BuildOptions, BuildPlan, BuildPlanError, Language, Mistake
from pulumi_mcpfleet.sources.layout import Layout
from pulumi_mcpfleet.sources.manifests import packages
from pulumi_mcpfleet.sources.node import is_node, node_recipe
from pulumi_mcpfleet.sources.python import is_python, python_recipe
from pulumi_mcpfleet.sources.reads import variables_read
from pulumi_mcpfleet.sources.shared_state import shared_by_source
from pulumi_mcpfleet.sources.speaks import stdio_sign

IGNORES: Final = (".dockerignore", ".gcloudignore", ".gitignore")
"""What builders read beside the Dockerfile."""


_HTTP: Final = re.compile(r"http|sse|port", re.IGNORECASE)
"""What a command says that has a server speak HTTP."""


def recipe_for(layout: Layout, wish: BuildOptions) -> BuildPlan:
    """How a folder is built: by its own Dockerfile, else by one that is made for it; and which variables it reads.

    Raises:
        BuildPlanError: Something can't be decided, or is not supported.
    """
    recipe = replace(_recipe(layout, wish), shares=shared_by_source(layout))
    # The bridge has names of its own, and gives its server what the user says alone.
    return recipe if wish.speaks == "stdio" else replace(recipe, reads=variables_read(layout))


def _recipe(layout: Layout, wish: BuildOptions) -> BuildPlan:
    layout.refuse_odd(*IGNORES)
    own = "Dockerfile" if wish.dockerfile is None and layout.has("Dockerfile") else wish.dockerfile
    if own:
        return _own(layout, wish, own)
    if wish.target:
        raise BuildPlanError.of("target", "is a stage of a Dockerfile of its own, and one is made; remove it")
    language = wish.language or _language(layout)
    sign = None if wish.speaks or _HTTP.search(" ".join([*wish.start, *wish.args])) else stdio_sign(layout)
    if sign is not None:
        sentence = f"it speaks stdio, by its files: {sign}. Write speaks: stdio, which puts the bridge before it"
        raise BuildPlanError.of("speaks", f"{sentence}; or speaks: http, if it serves HTTP none the less")
    if language == "python":
        if not is_python(layout):
            raise BuildPlanError.of("language", "python needs a pyproject.toml or a requirements.txt")
        return python_recipe(layout, wish)
    if not is_node(layout):
        raise BuildPlanError.of("language", "node needs a package.json")
    of_python = {"extras": wish.extras, "groups": wish.groups, "bounds": wish.bounds, "before": wish.before}
    if said := [key for key, value in of_python.items() if value]:
        raise BuildPlanError([Mistake(key, "is for Python, and this is Node.js; remove it") for key in said])
    return node_recipe(layout, wish)


def _own(layout: Layout, wish: BuildOptions, name: str) -> BuildPlan:
    if not layout.has(name):
        raise BuildPlanError.of("dockerfile", f"there is no {name}; correct it, or leave it out and one is made")
    layout.refuse_odd(f"{name}.dockerignore")
    said = {"language": wish.language, "installer": wish.installer, "start": wish.start, "apt": wish.apt}
    said |= {"package": wish.package, "apt_build": wish.apt_build, "extras": wish.extras}
    said |= {
        "copy_from": wish.copy_from,
        "writable": wish.writable,
        "groups": wish.groups,
        "bounds": wish.bounds,
        "before": wish.before,
    }
    if wish.speaks == "stdio":
        sentence = (
            f"stdio needs a Dockerfile that is made, and there is one ({name}); write dockerfile: none, or put the"
        )
        raise BuildPlanError.of("speaks", f"{sentence} image behind the bridge: stdio: {{image: …, command: […]}}")
    mistakes = [
        Mistake(key, f"is the Dockerfile's business, and there is one ({name}); remove it, or write dockerfile: none")
        for key, value in said.items()
        if value
    ]
    if mistakes:
        raise BuildPlanError(mistakes)
    decided = f"{wish.target} of the repository's own {name} (`target`)"
    if not wish.target:
        decided = f"the repository's own {name} (`dockerfile`)"
    return BuildPlan(dockerfile=None, location=name, args=wish.args, decided=[decided])


def _language(layout: Layout) -> Language:
    python, node = is_python(layout), is_node(layout)
    if python and node:
        kinds = {one.kind for one in packages(layout)}
        if len(of := kinds & {"pypi", "npm"}) == 1:
            return "python" if "pypi" in of else "node"
        raise BuildPlanError.of(
            "language", "there are a package.json and Python's files; write language: python or language: node"
        )
    if python:
        return "python"
    if node:
        return "node"
    others = {"go.mod": "Go", "Cargo.toml": "Rust", "pom.xml": "Java", "build.gradle": "Java", "Gemfile": "Ruby"}
    for name, what in others.items():
        if layout.has(name):
            raise BuildPlanError.of(
                "dockerfile", f"{name} is {what}'s, for which no Dockerfile is made; add one to the repository"
            )
    raise BuildPlanError.of(
        "dockerfile",
        "there is no Dockerfile, pyproject.toml, requirements.txt or package.json; correct the folder (or dir),"
        " or add one of them",
    )
