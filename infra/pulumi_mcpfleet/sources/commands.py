"""Parses a shell command of a repository into a list of words that needs no shell, if possible.

A start script or a line of a Procfile is untrusted. It becomes a JSON list of words. If it reads variables, one shell
expands these and nothing else. A command that needs more of a shell is rejected.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

_VARIABLE = r"\$(?:[A-Za-z_][A-Za-z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*(?::?-[A-Za-z0-9_./:-]*)?\})"
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*")


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        variables: The variables that it sets, each `NAME=VALUE`.
        words: Its program and arguments, in which variables are written as in a shell.
    """

    variables: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def executable(self) -> tuple[str, ...]:
        """The command as a list to execute. It has a shell only if it reads variables."""
        words = (*(("env", *self.variables) if self.variables else ()), *self.words)
        if not any("$" in word for word in words):
            return words
        return ("sh", "-c", "exec " + " ".join(map(_quote_word, words)))


def parse_script(script: str) -> tuple[Command, ...] | None:
    """Return the commands of a script that are joined by `&&`; None if the script needs more of a shell."""
    if re.search(r"[`~*?\[\]{}!\\]|\$\(", re.sub(_VARIABLE, "", script)) or re.search(r"'[^']*\$[^']*'", script):
        return None
    if "$" in re.sub(_VARIABLE, "", script):
        return None
    lexer = shlex.shlex(script, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    parts: list[list[str]] = [[]]
    try:
        for token in lexer:
            if token == "&&":  # noqa: S105 - no secret
                parts.append([])
            elif re.fullmatch(r"[();<>|&]+", token):
                return None
            else:
                parts[-1].append(token)
    except ValueError:
        return None
    parsed = [_parse_command(part) for part in parts]
    return tuple(parsed) if all(command.words for command in parsed) else None


def _parse_command(tokens: Sequence[str]) -> Command:
    """Parse the assignments of a command (by the shell, env or cross-env), and its other words."""
    remaining = list(tokens)
    if remaining and remaining[0] in ("env", "cross-env"):
        del remaining[0]
    variables: list[str] = []
    while remaining and _ASSIGNMENT.fullmatch(remaining[0]):
        variables.append(remaining.pop(0))
    if remaining and remaining[0] == "cross-env":
        return Command((*variables, *(inner := _parse_command(remaining)).variables), inner.words)
    if remaining and remaining[0] == "exec":
        del remaining[0]
    return Command(tuple(variables), tuple(remaining))


def _quote_word(word: str) -> str:
    """Quote a word for a shell so that only its variables are expanded."""
    if "$" not in word:
        return shlex.quote(word)
    return '"' + re.sub(r'(["\\`])', r"\\\1", word) + '"'
