"""Detects the kind of a repository, and plans its build."""

import re
from dataclasses import replace
from typing import Final

from pulumi_mcpfleet.sources.build_plan import BuildOptions, BuildPlan, BuildPlanError, Language, SourceMistake
from pulumi_mcpfleet.sources.environment_use import find_variables
from pulumi_mcpfleet.sources.layout import Layout
from pulumi_mcpfleet.sources.manifests import registry_packages
from pulumi_mcpfleet.sources.node import is_node, plan_node
from pulumi_mcpfleet.sources.python import is_python, plan_python
from pulumi_mcpfleet.sources.shared_state import find_source_state
from pulumi_mcpfleet.sources.stdio_signs import find_stdio_sign

IGNORE_FILES: Final = (".dockerignore", ".gcloudignore", ".gitignore")
"""The ignore files that builders read."""


_HTTP_WORDS: Final = re.compile(r"http|sse|port", re.IGNORECASE)
"""Words in a command that show that the server speaks HTTP."""


def plan_build(layout: Layout, options: BuildOptions) -> BuildPlan:
    """Plan the build of a folder: with its own Dockerfile, else with a generated one.

    Raises:
        BuildPlanError: Something can't be decided, or is not supported.
    """
    plan = replace(_plan(layout, options), shared_state=find_source_state(layout))
    # The bridge has variables of its own, and passes only the user's to its server.
    return plan if options.speaks == "stdio" else replace(plan, variables=find_variables(layout))


def _plan(layout: Layout, options: BuildOptions) -> BuildPlan:
    layout.refuse_unsafe(*IGNORE_FILES)
    dockerfile = "Dockerfile" if options.dockerfile is None and layout.has("Dockerfile") else options.dockerfile
    if dockerfile:
        return _plan_own_dockerfile(layout, options, dockerfile)
    if options.target:
        raise BuildPlanError.of(
            "target", "is for a source with its own Dockerfile, and this one is generated; remove it"
        )
    language = options.language or _detect_language(layout)
    sign = (
        None
        if options.speaks or _HTTP_WORDS.search(" ".join([*options.start, *options.args]))
        else find_stdio_sign(layout)
    )
    if sign is not None:
        message = f"it speaks stdio, by its files: {sign}. Write speaks: stdio, which puts the bridge before it"
        raise BuildPlanError.of("speaks", f"{message}; or speaks: http, if it serves HTTP none the less")
    if language == "python":
        if not is_python(layout):
            raise BuildPlanError.of("language", "python needs a pyproject.toml or a requirements.txt")
        return plan_python(layout, options)
    if not is_node(layout):
        raise BuildPlanError.of("language", "node needs a package.json")
    of_python = {"extras": options.extras, "groups": options.groups, "bounds": options.bounds, "before": options.before}
    if misplaced := [key for key, value in of_python.items() if value]:
        raise BuildPlanError([SourceMistake(key, "is for Python, and this is Node.js; remove it") for key in misplaced])
    return plan_node(layout, options)


def _plan_own_dockerfile(layout: Layout, options: BuildOptions, name: str) -> BuildPlan:
    if not layout.has(name):
        raise BuildPlanError.of(
            "dockerfile", f"there is no {name}; correct the path, or remove the key to have one generated"
        )
    layout.refuse_unsafe(f"{name}.dockerignore")
    generated_only = {
        "language": options.language,
        "installer": options.installer,
        "start": options.start,
        "apt": options.apt,
    }
    generated_only |= {"package": options.package, "apt_build": options.apt_build, "extras": options.extras}
    generated_only |= {
        "copy_from": options.copy_from,
        "writable": options.writable,
        "groups": options.groups,
        "bounds": options.bounds,
        "before": options.before,
    }
    if options.speaks == "stdio":
        message = (
            f"stdio needs a generated Dockerfile, and the source has its own ({name}); write dockerfile:"
            f" none, or put the"
        )
        raise BuildPlanError.of("speaks", f"{message} image behind the bridge: stdio: {{image: …, command: […]}}")
    mistakes = [
        SourceMistake(
            key, f"has no effect, because the source has its own {name}; remove it, or write dockerfile: none"
        )
        for key, value in generated_only.items()
        if value
    ]
    if mistakes:
        raise BuildPlanError(mistakes)
    decision = f"{options.target} of the repository's own {name} (`target`)"
    if not options.target:
        decision = f"the repository's own {name} (`dockerfile`)"
    return BuildPlan(dockerfile=None, dockerfile_path=name, args=options.args, decisions=[decision])


def _detect_language(layout: Layout) -> Language:
    python, node = is_python(layout), is_node(layout)
    if python and node:
        kinds = {package.kind for package in registry_packages(layout)}
        if len(registries := kinds & {"pypi", "npm"}) == 1:
            return "python" if "pypi" in registries else "node"
        raise BuildPlanError.of(
            "language", "the source has a package.json and files of Python; write language: python or language: node"
        )
    if python:
        return "python"
    if node:
        return "node"
    others = {"go.mod": "Go", "Cargo.toml": "Rust", "pom.xml": "Java", "build.gradle": "Java", "Gemfile": "Ruby"}
    for name, language in others.items():
        if layout.has(name):
            raise BuildPlanError.of(
                "dockerfile", f"{name} is {language}'s, for which no Dockerfile is made; add one to the repository"
            )
    raise BuildPlanError.of(
        "dockerfile",
        "there is no Dockerfile, pyproject.toml, requirements.txt or package.json; correct the folder (or dir),"
        " or add one of them",
    )
