"""A command that a repository wrote for a shell, as words that need none where that is possible.

A start script or a line of a Procfile is a stranger's. It becomes a list of words, each of them text of a JSON list;
where it reads variables, one shell expands these and nothing else. What wants more of a shell than that is not taken.
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
        variables: What it sets for itself, each `NAME=VALUE`.
        words: Its program and arguments; variables stand in them as a shell has them.
    """

    variables: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def executable(self) -> tuple[str, ...]:
        """The command as a list that a system executes; the shell is in it only for variables."""
        words = (*(("env", *self.variables) if self.variables else ()), *self.words)
        if not any("$" in word for word in words):
            return words
        return ("sh", "-c", "exec " + " ".join(map(_expanded, words)))


def commands(script: str) -> tuple[Command, ...] | None:
    """The commands of a script that has them one after another (`&&`); None for one that wants more of a shell."""
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
    found = [_command(part) for part in parts]
    return tuple(found) if all(one.words for one in found) else None


def _command(tokens: Sequence[str]) -> Command:
    """Assignments, whoever makes them (a shell, env, cross-env), and the words behind them."""
    left = list(tokens)
    if left and left[0] in ("env", "cross-env"):
        del left[0]
    variables: list[str] = []
    while left and _ASSIGNMENT.fullmatch(left[0]):
        variables.append(left.pop(0))
    if left and left[0] == "cross-env":
        return Command((*variables, *(inner := _command(left)).variables), inner.words)
    if left and left[0] == "exec":
        del left[0]
    return Command(tuple(variables), tuple(left))


def _expanded(word: str) -> str:
    """A word for a shell that expands its variables and takes everything else as it is."""
    if "$" not in word:
        return shlex.quote(word)
    return '"' + re.sub(r'(["\\`])', r"\\\1", word) + '"'
