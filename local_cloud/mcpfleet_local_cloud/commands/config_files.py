"""Checks a stack's YAML files before anything is set up. Pulumi's own error does not name the invalid file."""

import yaml

from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.phases import SetupError


def check(folder: CloudFolder) -> None:
    """Check that the stack's files are valid YAML. The Pulumi engine and the program check their content.

    Raises:
        SetupError: A file is not; the message has its name, the position and the reason.
    """
    for name in ("Pulumi.yaml", f"Pulumi.{folder.stack}.yaml"):
        try:
            text = (folder.root / name).read_text(encoding="utf-8")
            yaml.compose(text, Loader=yaml.SafeLoader)  # composed, not loaded: PyYAML does not know Pulumi's tags
        except FileNotFoundError:
            continue
        except UnicodeDecodeError as error:
            raise _error(f"{name} is not UTF-8", "save the file as UTF-8") from error
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            location = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            next_step = (
                "correct that line or the one before it: check the indentation, the quotes, and the space after a colon"
            )
            raise _error(f"{name}{location}: {error.problem or error.context}", next_step) from error
        except yaml.YAMLError as error:
            raise _error(
                f"{name}: {' '.join(str(error).split())}", "remove the characters that are not text"
            ) from error


def _error(message: str, next_step: str) -> SetupError:
    return SetupError(f"{message}. Nothing was changed.", f"{next_step}; then run the command again.")
