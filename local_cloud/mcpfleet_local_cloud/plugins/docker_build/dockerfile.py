"""Parses Dockerfiles, to find mistakes before a build and the line of a failed step."""

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


def parse_instructions(text: str) -> Iterator[tuple[int, str]]:
    """Yield each instruction with its line number; continuation lines are joined with one space."""
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


def find_mistake(text: str) -> str | None:
    """Find the first mistake that BuildKit's parser would report; None for a Dockerfile with another syntax."""
    syntax = _SYNTAX.match(text.lstrip())
    if syntax and not syntax[1].startswith("docker/dockerfile:1"):
        return None
    parsed = list(parse_instructions(text))
    if not parsed:
        return "file with no instructions"
    for number, instruction in parsed:
        name = instruction.split(maxsplit=1)[0].upper()
        if name not in _INSTRUCTIONS:
            return f"dockerfile parse error on line {number}: unknown instruction: {name}"
        if len(instruction.split(maxsplit=1)) == 1:
            return f"dockerfile parse error on line {number}: {name} requires at least one argument"
    first = next(
        ((number, instruction) for number, instruction in parsed if instruction.split()[0].upper() != "ARG"), parsed[0]
    )
    if first[1].split()[0].upper() != "FROM":
        return f"dockerfile parse error on line {first[0]}: no build stage in current context"
    return None


def find_line(text: str, step: str) -> int | None:
    """Find the line of the instruction that a builder calls *step*; None if there is none."""
    words = _split_without_flags(step)
    return next(
        (number for number, instruction in parse_instructions(text) if _split_without_flags(instruction) == words), None
    )


def _split_without_flags(instruction: str) -> list[str]:
    """The words of an instruction without flags, which builders omit or move."""
    return [word for word in instruction.split() if not word.startswith("--")]
