"""As much of a Dockerfile as it takes to find mistakes before a build and to say where a build failed."""

import re
from collections.abc import Iterator
from typing import Final

_INSTRUCTIONS: Final = frozenset(
    [
        "ADD",
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "MAINTAINER",
        "ONBUILD",
        "RUN",
        "SHELL",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ]
)
_SYNTAX: Final = re.compile(r"#\s*syntax\s*=\s*(\S+)", re.IGNORECASE)
_HEREDOC: Final = re.compile(r"<<-?[\"']?(\w+)[\"']?")


def instructions(text: str) -> Iterator[tuple[int, str]]:
    """Each instruction with its line number, continuation lines joined by one space."""
    lines = text.splitlines()
    index = 0
    while index < len(lines):
        first = index
        line = lines[index].strip()
        index += 1
        if not line or line.startswith("#"):
            continue
        parts = [line]
        while parts[-1].endswith("\\") and index < len(lines):
            parts[-1] = parts[-1][:-1].rstrip()
            following = lines[index].strip()
            index += 1
            if following.startswith("#") or not following:
                parts[-1] += " \\"  # a comment between continued lines continues them
                continue
            parts.append(following)
        instruction = " ".join(part.removesuffix("\\").strip() for part in parts)
        for ending in _HEREDOC.findall(instruction) if instruction[:4].upper() in ("RUN ", "COPY", "ADD ") else ():
            while index < len(lines) and lines[index].strip() != ending:
                index += 1
            index += 1
        yield first + 1, instruction


def mistake(text: str) -> str | None:
    """What BuildKit's parser would refuse, or None; a Dockerfile of another syntax is not judged."""
    syntax = _SYNTAX.match(text.lstrip())
    if syntax and not syntax[1].startswith("docker/dockerfile:1"):
        return None
    found = list(instructions(text))
    if not found:
        return "file with no instructions"
    for number, instruction in found:
        name = instruction.split(maxsplit=1)[0].upper()
        if name not in _INSTRUCTIONS:
            return f"dockerfile parse error on line {number}: unknown instruction: {name}"
        if len(instruction.split(maxsplit=1)) == 1:
            return f"dockerfile parse error on line {number}: {name} requires at least one argument"
    first = next(((number, one) for number, one in found if one.split()[0].upper() != "ARG"), found[0])
    if first[1].split()[0].upper() != "FROM":
        return f"dockerfile parse error on line {first[0]}: no build stage in current context"
    return None


def line_of(text: str, step: str) -> int | None:
    """The line of the instruction that a builder calls *step*, None when it is not found."""
    wanted = _words(step)
    return next((number for number, instruction in instructions(text) if _words(instruction) == wanted), None)


def _words(instruction: str) -> list[str]:
    """The instruction without flags, which builders leave out or put elsewhere."""
    return [word for word in instruction.split() if not word.startswith("--")]
