"""The files of a stack, read before anything is set up. Of one that is no YAML, Pulumi does not say which it is."""

import yaml

from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.phases import SetupError


def check(place: CloudFolder) -> None:
    """Refuse a stack whose files are no YAML. What they say is the engine's and the program's to judge.

    Raises:
        SetupError: One is none; the text says which, where, and why.
    """
    for name in ("Pulumi.yaml", f"Pulumi.{place.stack}.yaml"):
        try:
            text = (place.root / name).read_text(encoding="utf-8")
            yaml.compose(text, Loader=yaml.SafeLoader)  # not loaded: a tag of Pulumi's is none of PyYAML's
        except FileNotFoundError:
            continue
        except UnicodeDecodeError as error:
            raise _broken(f"{name} is not UTF-8", "save the file as UTF-8") from error
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            step = "mend that line or the one before: its indentation, its quotes, the space after a colon"
            raise _broken(f"{name}{where}: {error.problem or error.context}", step) from error
        except yaml.YAMLError as error:
            raise _broken(f"{name}: {' '.join(str(error).split())}", "remove what is not text") from error


def _broken(what: str, step: str) -> SetupError:
    return SetupError(f"{what}. Nothing was changed.", f"{step}; then run the command again.")
