"""What `mcpfleet check` and `mcpfleet init` ask about a project's folder: its stacks' config files, and new servers.

The command finds this module by the entry point `mcpfleet.projects`. Nothing here imports pulumi or asks a cloud.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import yaml

from pulumi_mcpfleet.fleet import Fleet, FleetError, builds_in_cloud, find_deprecated_keys, parse_fleet
from pulumi_mcpfleet.new_servers import plan_server

__all__ = [
    "ProjectError",
    "StackFile",
    "check_file",
    "check_files",
    "check_project",
    "config_file_name",
    "find_build_provider_problem",
    "plan_server",
    "read_config",
    "read_location",
]

_FLEET: Final = "mcpfleet:fleet"
_PROJECT: Final = "gcp:project"
_UNIVERSE: Final = "gcp:universeDomain"
_GOOGLE_UNIVERSE: Final = "googleapis.com"
_BUILD_PROVIDER: Final = "mcpfleet-build"

_MAX_BYTES: Final = 1 << 20
"""The most bytes of a config file: far more than the largest fleet has."""
_MAX_VALUES: Final = 100_000
"""The most values of a config file, with those that aliases stand for."""


class ProjectError(ValueError):
    """The folder is not that of a Pulumi project; the text says what to do."""


class _FileError(ValueError):
    """A file can't be read as a mapping of YAML; the text says where and why."""


@dataclass(frozen=True)
class StackLocation:
    """Where a stack is deployed.

    Attributes:
        project: The id of its project.
        universe: The universe domain of its cloud: Google's, or the local cloud's.
        labels: The labels of the fleet's resources.
    """

    project: str
    universe: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class StackFile:
    """The config file of a stack, as it was checked.

    Attributes:
        name: The name of the file.
        fleet: The fleet; None if the file has mistakes.
        mistakes: One line for each mistake, which begins with its path.
        warnings: One line for each deprecated key, and for each build for which Pulumi.yaml lacks the provider. It
            begins with its path.
    """

    name: str
    fleet: Fleet | None
    mistakes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def contents(self) -> str:
        """What the fleet has, in a few words; empty if the file has mistakes."""
        if self.fleet is None:
            return ""
        counts = {"server": len(self.fleet.servers), "client": len(self.fleet.clients)}
        return ", ".join(f"{count} {word}{'s' if count > 1 else ''}" for word, count in counts.items() if count)


def check_files(root: Path) -> list[StackFile]:
    """Check the config file of every stack, without asking a cloud.

    Args:
        root: The folder of Pulumi.yaml.

    Raises:
        ProjectError: It has no Pulumi.yaml, or no stack has a config file.
    """
    if not (root / "Pulumi.yaml").is_file():
        raise ProjectError(f"There is no Pulumi.yaml in {root}. Run this in the folder that has it, or give --cwd.")
    files = sorted(root.glob("Pulumi.*.yaml"))
    if not files:
        raise ProjectError(f"There is no Pulumi.STACK.yaml in {root}: no stack has a config file to check.")
    try:
        shared = _read(root / "Pulumi.yaml").get("config")
    except _FileError as error:
        return [StackFile("Pulumi.yaml", None, (str(error),)), *(check_file(file) for file in files)]
    return [check_file(file, shared) for file in files]


def check_file(file: Path, shared: Any = None) -> StackFile:
    """Check the config file of one stack, without asking a cloud.

    Args:
        file: The file, beside Pulumi.yaml.
        shared: The value of `config` in Pulumi.yaml, which holds for all stacks.
    """
    try:
        config: Any = _read(file).get("config")
    except _FileError as error:
        return StackFile(file.name, None, (str(error),))
    mistakes: list[str] = []
    values = _shared_values(shared)
    if isinstance(config, dict):
        values |= cast("dict[Any, Any]", config)
    elif config is not None:
        mistakes.append("config: is not a mapping; write each key in a line of its own below it")
    if not values.get(_PROJECT):
        mistakes.append(f"{_PROJECT}: missing; add the id of a Google Cloud project under config")
    fleet: Fleet | None = None
    try:
        fleet = parse_fleet(values.get(_FLEET), root=file.parent)
    except FleetError as error:
        mistakes += str(error).splitlines()
    warnings = [*find_deprecated_keys(values.get(_FLEET))]
    if fleet is not None:
        warnings += _cloud_build_warnings(fleet, file.parent)
    return StackFile(file.name, None if mistakes else fleet, tuple(mistakes), tuple(warnings))


def find_build_provider_problem(root: Path) -> str | None:
    """Return what Pulumi's engine needs in Pulumi.yaml to find the provider that builds with Cloud Build.

    Without the entry, the engine looks for the provider on the PATH, and then for a release on the internet.

    Args:
        root: The folder of Pulumi.yaml.

    Returns:
        A sentence with what to write. None if the entry is there, or if no Pulumi.yaml can be read.
    """
    try:
        plugins = _read(root / "Pulumi.yaml").get("plugins")
    except _FileError:
        return None
    entries: Any = _as_mapping(plugins).get("providers")
    names = [
        _as_mapping(entry).get("name") for entry in cast("list[Any]", entries if isinstance(entries, list) else [])
    ]
    if _BUILD_PROVIDER in names:
        return None
    return (
        f"Pulumi.yaml does not say where the provider {_BUILD_PROVIDER} is; write into it"
        f" plugins: {{providers: [{{name: {_BUILD_PROVIDER}, path: .venv/bin}}]}}, with the folder of the Python"
        " environment that has pulumi-mcpfleet"
    )


def _cloud_build_warnings(fleet: Fleet, root: Path) -> list[str]:
    sections = {"servers": fleet.servers, "clients": fleet.clients}
    paths = [
        f"fleet.{section}.{name}.source.builder"
        for section, workloads in sections.items()
        for name, workload in workloads.items()
        if builds_in_cloud(workload.source)
    ]
    problem = find_build_provider_problem(root) if paths else None
    return [f"{path}: {problem}" for path in paths] if problem else []


def check_project(root: Path) -> str:
    """Return the project's name.

    Args:
        root: The folder of Pulumi.yaml.

    Raises:
        ProjectError: The file can't be read, or its program is not in Python.
    """
    try:
        project = _read(root / "Pulumi.yaml")
    except _FileError as error:
        raise ProjectError(f"{root / 'Pulumi.yaml'}: {error}.") from None
    runtime: Any = project.get("runtime")
    language: Any = cast("dict[Any, Any]", runtime).get("name") if isinstance(runtime, dict) else runtime
    if language != "python":
        raise ProjectError(
            f"{root / 'Pulumi.yaml'}: the program is in {language or 'no language'}, and a project of mcpfleet init is"
            " in Python. Choose another folder."
        )
    return str(project.get("name") or "")


def read_location(root: Path, stack: str) -> StackLocation:
    """Read where a stack is deployed. The fleet may have mistakes: a secret is often stored before it is complete.

    Args:
        root: The folder of Pulumi.yaml.
        stack: The stack's name.

    Raises:
        ProjectError: There is no such stack, or its config file names no project.
    """
    values, file_name = read_config(root, stack), config_file_name(stack)
    project, universe = values.get(_PROJECT), values.get(_UNIVERSE, _GOOGLE_UNIVERSE)
    if not isinstance(project, str) or not project:
        raise ProjectError(f"{file_name}: {_PROJECT}: missing; add the id of a Google Cloud project under config.")
    if not isinstance(universe, str):
        raise ProjectError(f"{file_name}: {_UNIVERSE}: is not a text; write the universe's domain.")
    labels = _as_mapping(_as_mapping(values.get(_FLEET)).get("labels"))
    return StackLocation(project, universe, {str(key): str(value) for key, value in labels.items()})


def read_config(root: Path, stack: str) -> dict[Any, Any]:
    """Read the config of a stack: the values of its file, over those that Pulumi.yaml gives all stacks.

    Args:
        root: The folder of Pulumi.yaml.
        stack: The stack's name.

    Raises:
        ProjectError: There is no such stack, or a file can't be read.
    """
    if not (root / "Pulumi.yaml").is_file():
        raise ProjectError(f"There is no Pulumi.yaml in {root}. Run this in the folder that has it, or give --cwd.")
    files = {file.name: file for file in root.glob("Pulumi.*.yaml")}
    file = files.get(config_file_name(stack))
    if file is None:
        raise ProjectError(
            f"There is no {config_file_name(stack)} in {root}; there are: {', '.join(sorted(files)) or 'none'}."
        )
    values: dict[Any, Any] = {}
    for source in (root / "Pulumi.yaml", file):
        try:
            config: Any = _read(source).get("config")
        except _FileError as error:
            raise ProjectError(f"{source.name}: {error}.") from None
        values |= _as_mapping(config) if source == file else _shared_values(config)
    return values


def config_file_name(stack: str) -> str:
    """The name of a stack's config file: with the last part of the stack's name, without organization and project."""
    return f"Pulumi.{stack.rpartition('/')[2]}.yaml"


def _as_mapping(value: Any) -> dict[Any, Any]:
    return cast("dict[Any, Any]", value) if isinstance(value, dict) else {}


def _shared_values(shared: Any) -> dict[Any, Any]:
    """The values that Pulumi.yaml gives all stacks: a key's own, its `value`, or its `default`."""
    if not isinstance(shared, dict):
        return {}
    values: dict[Any, Any] = {}
    for key, given in cast("dict[Any, Any]", shared).items():
        typed = cast("dict[Any, Any]", given) if isinstance(given, dict) else {}
        values[key] = typed.get("value", typed.get("default")) if {"value", "default"} & typed.keys() else given
    return values


def _read(file: Path) -> dict[Any, Any]:
    """The mapping that a file of YAML has.

    Raises:
        _FileError: It can't be read, is not YAML, or says a key twice.
    """
    try:
        if not file.is_file():
            raise _FileError("is not a file; write the stack's config into a plain file of this name")
        if file.stat().st_size > _MAX_BYTES:
            raise _FileError(f"has more than {_MAX_BYTES >> 20} MiB, which no stack needs; make it smaller")
        text = file.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if _count_values(node, {}) > _MAX_VALUES:
            raise _FileError(f"has aliases (*NAME) that stand for more than {_MAX_VALUES} values; write fewer of them")
        value: Any = yaml.safe_load(text)
    except UnicodeDecodeError:
        raise _FileError("is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise _FileError(f"can't be read: {error.strerror or error}") from None
    except yaml.MarkedYAMLError as error:
        where = (
            f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: "
            if error.problem_mark
            else ""
        )
        raise _FileError(f"{where}{error.problem or error.context}; correct that line or the one before") from None
    except _FileError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _FileError(f"is not YAML: {' '.join(str(error).split())}") from None
    if repeated := next(_repeated(node), None):
        raise _FileError(repeated)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _FileError("is not a mapping; write each key in a line of its own")
    return cast("dict[Any, Any]", value)


def _count_values(node: yaml.Node | None, counts: dict[int, int]) -> int:
    """Count the values below a node, an alias as all that it stands for; *counts* has those of the nodes before."""
    if node is None:
        return 0
    if id(node) not in counts:
        counts[id(node)] = _MAX_VALUES  # of a node within itself, which has no end
        nodes: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            nodes = [part for pair in cast("list[tuple[yaml.Node, yaml.Node]]", node.value) for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            nodes = cast("list[yaml.Node]", node.value)
        counts[id(node)] = 1 + sum(_count_values(part, counts) for part in nodes)
    return counts[id(node)]


def _repeated(node: yaml.Node | None) -> Iterator[str]:
    """Keys that a mapping has twice: Pulumi refuses them, and PyYAML keeps the last."""
    waiting, seen = [node], set[int]()
    while waiting:
        part = waiting.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, yaml.MappingNode):
            pairs = cast("list[tuple[yaml.Node, yaml.Node]]", part.value)
            keys = set[str]()
            for key, value in pairs:
                waiting.append(value)
                text = str(key.value)
                if text in keys and text != "<<":
                    yield f"line {key.start_mark.line + 1}: the key {text[:100]!r} is there twice; keep one"
                keys.add(text)
        elif isinstance(part, yaml.SequenceNode):
            waiting += cast("list[yaml.Node]", part.value)
