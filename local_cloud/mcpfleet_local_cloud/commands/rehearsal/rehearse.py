"""The steps of `mcpfleet rehearse`. The other modules here do the work."""

import os
import random
import re
import shlex
import shutil
import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import yaml

from mcpfleet.inert import inert
from mcpfleet_local_cloud.commands import background, stack
from mcpfleet_local_cloud.commands.admin import AdminClient
from mcpfleet_local_cloud.commands.background import CloudFolder, read_port
from mcpfleet_local_cloud.commands.cli import typed_program
from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.phases import Phases, SetupError
from mcpfleet_local_cloud.commands.pulumi_engine import PulumiStack
from mcpfleet_local_cloud.commands.rehearsal.dependencies import (
    create_dependencies,
    fetch_images,
    find_silent_issuers,
    isolate,
)
from mcpfleet_local_cloud.commands.rehearsal.mapping import (
    MappingError,
    Rehearsal,
    UnavailableError,
    map_config,
    outermost,
    to_yaml,
)
from mcpfleet_local_cloud.commands.rehearsal.secret_values import check_names, read_secret_values
from mcpfleet_local_cloud.commands.setup import PreparedMachine, prepare
from mcpfleet_local_cloud.commands.setup.base_image import BASE_IMAGE
from mcpfleet_local_cloud.commands.setup.locks import lock_or_refuse
from mcpfleet_local_cloud.commands.stack_state import read_stack_state, state_file
from mcpfleet_local_cloud.commands.verify import verify as verify_servers
from mcpfleet_local_cloud.state.folder import write_private
from pulumi_mcpfleet.projects import ProjectError, config_file_name, read_config

_STACK_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", re.ASCII)
_PORTS: Final = range(20_000, 32_768)
"""Below the ports of outgoing connections, which Linux takes from 32768 on."""
_PROJECT_KEYS: Final = ("name", "description", "runtime")
"""The keys of Pulumi.yaml that a rehearsal keeps. `backend` and others would lead to the user's own state."""


@dataclass(frozen=True)
class Options:
    """The options of `mcpfleet rehearse`.

    Attributes:
        stack: The name of the stack.
        skip: Paths of the fleet to leave out.
        secrets: The file with values of secrets; None: all get dummies.
        keeps: Whether the rehearsed fleet stays deployed.
    """

    stack: str
    skip: Sequence[str] = ()
    secrets: Path | None = None
    keeps: bool = False


def rehearse(phases: Phases, options: Options, root: Path | None = None) -> None:
    """Deploy the fleet of a stack to a local cloud of its own, verify it, and remove it.

    Args:
        phases: Where to show the progress.
        options: What to rehearse.
        root: The folder of Pulumi.yaml. Default: the one around the working folder.

    Raises:
        SetupError: The rehearsal failed, or could not begin. Unless *options* says so, nothing stays deployed.
    """
    paths = Paths.from_environ(os.environ, root)
    config = _read_config(paths.root, options.stack)
    values = read_secret_values(options.secrets) if options.secrets is not None else {}
    rehearsal = _map(config, paths.root, options, values)
    if options.secrets is not None:
        check_names(
            options.secrets, values, [*(secret.name for secret in rehearsal.secrets), *rehearsal.config_secrets]
        )
    folder = find_folder(paths.root, options.stack)
    prepared = prepare(phases)
    with phases.phase("Images"):
        failures = fetch_images(prepared.docker, rehearsal.fleet)
    if failures:
        lines = [f"{key}: {reason}" for key, reason in failures]
        raise _unavailable_error(config_file_name(options.stack), options, lines, [key for key, _ in failures])
    with _locked(folder), _isolated(folder):
        _print_mapping(phases, rehearsal, values)
        write_config(folder, rehearsal)
        with removed_at_end(phases, folder, prepared, keeps=options.keeps):
            _deploy(phases, folder, prepared, rehearsal, values)
    _print_end(phases, folder, options)


def remove(phases: Phases, stack_name: str, root: Path | None = None) -> None:
    """Remove a rehearsed fleet that was kept."""
    paths = Paths.from_environ(os.environ, root)
    folder = find_folder(paths.root, stack_name)
    if read_port(folder.state) is None:  # a local cloud that was killed still has its port
        phases.out.print(f"No rehearsal of the stack {folder.stack} is deployed.")
        return
    prepared = prepare(phases)
    with _locked(folder), _isolated(folder):
        _take_down(phases, folder, prepared, stack.destroy)
    phases.out.print(f"\nNothing is left of the rehearsal of {folder.stack}.")


def typed_command(stack_name: str) -> str:
    """Return what the user types to rehearse a stack."""
    return f"{typed_program(os.environ).removesuffix(' local')} rehearse -s {stack_name}"


def _locked(folder: CloudFolder) -> AbstractContextManager[None]:
    refusal = SetupError(
        f"Another rehearsal of the stack {folder.stack} is running. Nothing was changed.",
        "wait until it has finished, or end it; then run the command again.",
    )
    return lock_or_refuse(folder.state / "locks" / "rehearsal.lock", refusal)


def find_folder(root: Path, stack_name: str) -> CloudFolder:
    """Find the folder of a stack's rehearsals. Its local cloud keeps its port as long as it exists.

    Raises:
        SetupError: The name is not that of a stack, or no port is free.
    """
    name = stack_name.rpartition("/")[2]
    if _STACK_NAME.fullmatch(name) is None:  # `..` would be the folder of the project's own local cloud
        raise SetupError(
            f"{stack_name!r} is not the name of a stack. Nothing was changed.",
            "name a stack that has a config file: -s prod.",
        )
    state = root / ".mcpfleet" / "rehearsals" / name
    return CloudFolder(root=root, state=state, port=_find_port(state), stack=name, config=state / "project")


def write_config(folder: CloudFolder, rehearsal: Rehearsal) -> None:
    """Write the project's and the stack's config files of the rehearsal, in its own folder."""
    config_folder = folder.config or folder.root
    given: dict[str, Any] = yaml.safe_load((folder.root / "Pulumi.yaml").read_text(encoding="utf-8"))
    project: dict[str, Any] = {key: given[key] for key in _PROJECT_KEYS if key in given}
    plugins: Mapping[str, Any] = given.get("plugins") or {}
    providers: Any = plugins.get("providers") or []
    project["main"] = str(folder.root)
    project["plugins"] = {
        "providers": [
            {**provider, "path": str((folder.root / str(provider.get("path", ""))).resolve())}
            for provider in cast("list[dict[str, Any]]", providers)
        ]
    }
    folder.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(config_folder / "Pulumi.yaml", yaml.safe_dump(project, sort_keys=False))
    write_private(config_folder / f"Pulumi.{folder.stack}.yaml", to_yaml(rehearsal.config))


@contextmanager
def removed_at_end(
    phases: Phases,
    folder: CloudFolder,
    prepared: PreparedMachine,
    *,
    keeps: bool,
    destroy: Callable[..., None] = stack.destroy,
) -> Generator[None]:
    """Remove everything at the end, also after a failure or Ctrl-C; keep the services' logs of a failed rehearsal."""
    try:
        yield
    except SetupError:
        _save_logs(folder)
        raise
    finally:
        if keeps:
            background.stop_plugins(folder)
        else:
            _take_down(phases, folder, prepared, destroy)


def _take_down(phases: Phases, folder: CloudFolder, prepared: PreparedMachine, destroy: Callable[..., None]) -> None:
    destroy(phases, folder, prepared, force=True, next_step=f"run {typed_command(folder.stack)} --down.")


def _save_logs(folder: CloudFolder) -> None:
    logs = _logs_folder(folder)
    shutil.rmtree(logs, ignore_errors=True)
    try:
        admin = AdminClient(folder)
        for service in admin.inventory()["services"]:
            name = str(service["name"]).rpartition("/")[2]
            write_private(logs / f"{name}.log", "\n".join(inert(line) for line in admin.logs(service["name"])) + "\n")
    except SetupError:
        return  # the local cloud does not answer; the failure itself is what the user needs


def _logs_folder(folder: CloudFolder) -> Path:
    return folder.state / "logs" / "services"


def _read_config(root: Path, stack_name: str) -> Mapping[Any, Any]:
    try:
        return read_config(root, stack_name)
    except ProjectError as error:
        raise SetupError(str(error), "name a stack that has a config file: -s prod.") from None


def _map(config: Mapping[Any, Any], root: Path, options: Options, values: Mapping[str, str]) -> Rehearsal:
    file_name = config_file_name(options.stack)
    try:
        return map_config(config, root, base_image=BASE_IMAGE, skip=options.skip, values=values)
    except UnavailableError as error:
        raise _unavailable_error(file_name, options, error.lines, error.keys) from None
    except MappingError as error:
        raise SetupError(
            f"{file_name} can't be rehearsed. Nothing was deployed.\n  " + "\n  ".join(error.lines),
            "correct the file, or the options; then run the command again.",
        ) from None


def _unavailable_error(file_name: str, options: Options, lines: Sequence[str], keys: Sequence[str]) -> SetupError:
    skips = " ".join(f"--skip {shlex.quote(key)}" for key in outermost((*options.skip, *keys)))
    return SetupError(
        f"{file_name} has parts that this machine can't have. Nothing was deployed.\n  " + "\n  ".join(lines),
        f"leave them out: {typed_command(options.stack)} {skips}",
    )


@contextmanager
def _isolated(folder: CloudFolder) -> Generator[None]:
    """Run in the project's folder, in an environment without the user's logins."""
    previous, working_folder = dict(os.environ), Path.cwd()
    os.environ.clear()
    os.environ.update(isolate(previous, folder))
    os.chdir(folder.root)
    try:
        yield
    finally:
        os.chdir(working_folder)
        os.environ.clear()
        os.environ.update(previous)


def _deploy(
    phases: Phases, folder: CloudFolder, prepared: PreparedMachine, rehearsal: Rehearsal, values: Mapping[str, str]
) -> None:
    with stack.start_cloud(phases, folder, prepared) as engine:
        stack.publish_base_image(phases, folder, prepared)
        with phases.phase("Secrets and networks") as step:
            create_dependencies(folder, rehearsal, values)
            count = len(rehearsal.secrets)
            step.note(f"{count} secret{'' if count == 1 else 's'}")
        _show_plan(phases, folder, engine)
        engine.command = typed_command(folder.stack)
        outcome = stack.deploy(phases, engine)
    servers: dict[str, Any] = outcome.outputs.get("servers") or {}
    silent = find_silent_issuers(rehearsal.fleet)
    for name, issuer in silent.items():
        text = f"{name}: deployed, but not verified: its issuer {issuer} can't be reached from a rehearsal"
        phases.out.print(f"  {inert(text)}", markup=False, highlight=False, soft_wrap=True)
    verify_servers(
        phases,
        folder,
        {name: server for name, server in servers.items() if name not in silent},
        outcome.outputs.get("clients") or {},
        next_step=f"read the services' logs in {_logs_folder(folder)}, correct the cause, then run"
        f" {typed_command(folder.stack)} again; --keep leaves it deployed.",
    )
    _save_state(folder)


def _show_plan(phases: Phases, folder: CloudFolder, engine: PulumiStack) -> None:
    """Show what would change against the last rehearsal that succeeded, or against the deployed one."""
    is_deployed = state_file(folder).exists()
    saved = _saved_state(folder)
    if not is_deployed and not saved.exists():
        phases.out.print("\nThis is the first rehearsal of the stack, so there is no plan of changes.\n")
        return
    if not is_deployed:
        state_file(folder).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(saved, state_file(folder))
    try:
        with phases.phase("Plan") as step:
            plan = engine.preview(step)
            step.note(str(plan))
    finally:
        if not is_deployed:
            # The resources of that state are gone: the deployment begins with an empty state.
            engine.remove_state()
    phases.out.print("\nChanges against the last rehearsal:")
    for line in plan.planned or ["none"]:
        phases.out.print(f"  {inert(line)}", markup=False, highlight=False, soft_wrap=True)
    phases.out.print("")


def _saved_state(folder: CloudFolder) -> Path:
    return folder.state / "last" / f"{folder.stack}.json"


def _save_state(folder: CloudFolder) -> None:
    read_stack_state(folder)  # raises if it is damaged
    write_private(_saved_state(folder), state_file(folder).read_text(encoding="utf-8"))
    write_private(_saved_state(folder).with_name("port"), f"{folder.port}\n")


def _find_port(state: Path) -> int:
    """Find the port: that of the cloud that exists, else that of the last rehearsal, else any free port."""
    if (current := read_port(state)) is not None:
        return current
    ports = random.sample(_PORTS, 100)
    with suppress(OSError, ValueError):
        ports.insert(0, int((state / "last" / "port").read_text(encoding="utf-8")))
    for port in ports:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise SetupError("No port on 127.0.0.1 is free.", "end some of the programs that listen there.")


def _print_mapping(phases: Phases, rehearsal: Rehearsal, values: Mapping[str, str]) -> None:
    phases.out.print("\nThe rehearsal replaces:")
    names = [*(secret.name for secret in rehearsal.secrets), *rehearsal.config_secrets]
    given = [name for name in names if name in values]
    dummies = [name for name in names if name not in values]
    lines = [*rehearsal.notes]
    lines += [f"{', '.join(dummies)} → dummy values"] if dummies else []
    lines += [f"{', '.join(given)} → the values in the file"] if given else []
    for line in lines:
        phases.out.print(f"  {inert(line)}", markup=False, highlight=False, soft_wrap=True)
    phases.out.print("")


def _print_end(phases: Phases, folder: CloudFolder, options: Options) -> None:
    if not options.keeps:
        phases.out.print(f"\nThe rehearsal of {folder.stack} succeeded, and nothing is left of it.")
        return
    deployed = read_stack_state(folder)
    phases.out.print(f"\nThe rehearsal of {folder.stack} succeeded, and stays deployed at {folder.url}.")
    urls = {name: server["mcp_url"] for name, server in deployed.servers.items()}
    urls |= {name: client["url"] for name, client in deployed.clients.items()}
    for name, url in urls.items():
        phases.out.print(f"  {inert(name)}: {inert(str(url))}", markup=False, soft_wrap=True)
    phases.out.print(
        f"Its credentials are in {folder.credentials}. Remove it with {typed_command(folder.stack)} --down.",
        markup=False,
        soft_wrap=True,
    )
