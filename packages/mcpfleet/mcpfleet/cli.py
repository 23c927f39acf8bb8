"""The command `mcpfleet`.

Commands parse options, call the library and print. A `McpfleetError` becomes one message and an exit code.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from mcpfleet import options, system
from mcpfleet.errors import AuthError, McpfleetError, UsageError
from mcpfleet.inert import InertFormatter, inert_lines
from mcpfleet.project_commands import add_project_commands
from mcpfleet.server_commands import add_server_commands
from mcpfleet.terminal import configure_streams, console, flush_error, markup_safe, os_error_text

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

    from mcpfleet.proxy import Proxy
    from mcpfleet.token_sources import TokenSource

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
packages = typer.Typer(no_args_is_help=True, help="Lock the npm and PyPI packages of a fleet's servers.")
app.add_typer(packages, name="packages")
_out = console()
_err = console(stderr=True)


def main() -> None:
    """Run the command line; the entry point of the package."""
    configure_streams()
    code: object = 0
    message: str | None = None
    try:
        app()
    except McpfleetError as error:
        code, message = error.exit_code, str(error)
    except SystemExit as ended:
        code = ended.code
    except OSError as error:
        code, message = 1, os_error_text(error)
    if (error := flush_error(sys.stdout)) is not None and message is None:
        code, message = code or 1, os_error_text(error)
    if message:
        with contextlib.suppress(OSError):
            _err.print(f"[bold red]Error:[/] {escape(inert_lines(message))}")
    flush_error(sys.stderr)
    raise SystemExit(code)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        _out.print(f"mcpfleet {version('mcpfleet')}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Reach private MCP servers on Cloud Run: connect clients, verify servers, and troubleshoot connections.

    To host servers of your own, create a project (init), deploy it to this machine (local), store the secrets of its
    servers (secrets), check its config files (check), and try a production fleet on this machine (rehearse).
    """


@app.command()
def connect(
    server: Annotated[str | None, typer.Argument(help="The server's name in the fleet.")] = None,
    url: options.Url = None,
    audience: options.Audience = None,
    stack: options.StackName = None,
    outputs: options.Outputs = None,
    cwd: options.Folder = None,
    credentials: options.Credentials = None,
    token_file: options.TokenFilePath = None,
    token_command: options.TokenCommandText = None,
    impersonate: options.Impersonate = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Report each retry and its reason on stderr.")
    ] = False,
) -> None:
    """Run a stdio MCP server that forwards every request to a private server, with your ID token.

    Desktop clients start this command; `mcpfleet config CLIENT` writes it into their configuration. The identity is
    the one that google-auth finds, unless an option names another.
    """
    from mcpfleet.auth import IdTokenAuth
    from mcpfleet.stdio import run_connect
    from mcpfleet.token_sources import UnusableSource

    _log_to_stderr(logging.INFO if verbose else logging.WARNING)
    deployed = options.find_stack(url, audience, stack, outputs, cwd)
    chosen = options.select_server(deployed, server, url, audience)
    if chosen.is_sse_only:
        raise UsageError(f"{chosen.name} speaks SSE alone, which connect does not; take mcpfleet proxy {chosen.name}.")
    source: TokenSource
    try:
        source = options.find_source(deployed, credentials, token_file, token_command, impersonate)
    except AuthError as error:
        source = UnusableSource(error)  # the client shows this error; few clients show stderr
    run_connect(chosen.target, IdTokenAuth(chosen.audience, source))


@app.command()
def proxy(
    server: Annotated[str | None, typer.Argument(help="The server's name in the fleet.")] = None,
    url: options.Url = None,
    audience: options.Audience = None,
    port: Annotated[
        int, typer.Option(help="Loopback port to listen on; 0 chooses a free port.", min=0, max=65535)
    ] = 3000,
    stack: options.StackName = None,
    outputs: options.Outputs = None,
    cwd: options.Folder = None,
    credentials: options.Credentials = None,
    token_file: options.TokenFilePath = None,
    token_command: options.TokenCommandText = None,
    impersonate: options.Impersonate = None,
) -> None:
    """Run a proxy on 127.0.0.1 that forwards every request to a private service, with your ID token.

    The identity is the one google-auth finds, unless an option names another: GOOGLE_APPLICATION_CREDENTIALS, then
    the login of `gcloud auth application-default login`, then the metadata server.
    """
    # Imported here, because `mcpfleet --help` does not need it.
    from mcpfleet.auth import IdTokenAuth
    from mcpfleet.proxy import Proxy

    _log_to_stderr()
    deployed = options.find_stack(url, audience, stack, outputs, cwd)
    chosen = options.select_server(deployed, server, url, audience)
    target = chosen.target
    auth = IdTokenAuth(
        chosen.audience, options.find_source(deployed, credentials, token_file, token_command, impersonate)
    )
    auth.tokens.get()  # report a missing login now, not to the first client

    listener = _listen(port)
    local_url = f"http://127.0.0.1:{listener.getsockname()[1]}{target.path}"
    _out.print(f"[bold]{markup_safe(local_url)}[/] -> {markup_safe(target.origin + target.path)}")
    _out.print(f"as {markup_safe(auth.tokens.identity)}, for programs on this machine only. Press Ctrl-C to stop.")
    _serve(Proxy(target, auth), listener)


@app.command()
def config(
    client: Annotated[str, typer.Argument(help="claude-desktop, claude-code, vscode, cursor, gemini-cli, or json.")],
    servers: Annotated[list[str] | None, typer.Argument(help="The servers' names in the fleet. Default: all.")] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Add it to the client's configuration file, and keep a backup.")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the servers from the client's file.")] = False,
    via: Annotated[
        str, typer.Option(help="connect, or proxy or mcp-remote, which use the port of `mcpfleet proxy`.")
    ] = "connect",
    port: Annotated[
        int, typer.Option(help="The first port of `mcpfleet proxy`; each server has its own.", min=1)
    ] = 3000,
    file: Annotated[Path | None, typer.Option(help="The file to change, instead of the client's usual one.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace entries that mcpfleet did not write.")] = False,
    url: options.Url = None,
    audience: options.Audience = None,
    stack: options.StackName = None,
    outputs: options.Outputs = None,
    cwd: options.Folder = None,
    credentials: options.Credentials = None,
    impersonate: options.Impersonate = None,
) -> None:
    """Print a client's configuration for private servers, or add it to the client's file."""
    from mcpfleet.configure import create_entries, install_servers, print_servers, remove_servers
    from mcpfleet.desktop_clients import find_client

    chosen = find_client(client)
    if install and remove:
        raise UsageError("Use --install or --remove, not both.")
    if remove:
        remove_servers(_out, chosen, [file] if file else chosen.all_files(os.environ), servers or [])
        return
    path = file or (chosen.file(os.environ) if install else None)
    deployed = options.find_stack(url, audience, stack, outputs, cwd)
    entries = create_entries(chosen, deployed, servers or [], via, port, credentials, impersonate)
    if install and path is not None:
        install_servers(_out, chosen, path, entries, force=force, is_custom_file=file is not None)
    else:
        print_servers(_out, chosen, entries)


@app.command()
def verify(
    servers: options.ServerNames = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    expect_tool: Annotated[
        list[str] | None,
        typer.Option(help="A tool that must be listed; you can repeat the option.", show_default=False),
    ] = None,
    call: Annotated[
        str | None,
        typer.Option(help="A tool to call. If you verify several servers: SERVER/TOOL. Default: none."),
    ] = None,
    arguments: Annotated[str | None, typer.Option(help="The tool's arguments, as a JSON object.")] = None,
    locked: Annotated[
        bool,
        typer.Option("--locked", help="Fail if a server lists something that tools/SERVER.json doesn't allow."),
    ] = False,
    golden: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A JSON list of calls, with what their answers must hold.")
    ] = None,
    not_invoker: Annotated[
        Path | None, typer.Option(help="Credentials of an account without access, whose calls must be rejected.")
    ] = None,
    bearer_file: Annotated[
        Path | None, typer.Option(help="A file with a token for the server itself, in addition to Google's.")
    ] = None,
    timeout: Annotated[
        int | None,
        typer.Option(metavar="SECONDS", help="How long one check may take. Default: 60.", min=1, max=3600),
    ] = None,
    url: options.Url = None,
    audience: options.Audience = None,
    stack: options.StackName = None,
    outputs: options.Outputs = None,
    cwd: options.Folder = None,
    credentials: options.Credentials = None,
    token_file: options.TokenFilePath = None,
    token_command: options.TokenCommandText = None,
    impersonate: options.Impersonate = None,
) -> None:
    """Verify deployed servers and clients by calling them. Exit code 1 if a check fails.

    It checks that callers without a token or with a wrong token are rejected. With your identity, it lists each
    server's tools in both protocol revisions, and asks each client whether it reaches its servers. It calls only tools
    that you name.
    """
    import asyncio
    from dataclasses import replace

    from mcpfleet.auth import IdTokens
    from mcpfleet.golden import read_golden_calls
    from mcpfleet.locks import require_lock
    from mcpfleet.reports import parse_call, print_reports, read_bearer_token, reports_json
    from mcpfleet.token_sources import source_from_file
    from mcpfleet.verify import Callers, CheckOptions, check_all

    _log_to_stderr()
    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # the report has the SDK's errors
    deployed = options.find_stack(url, audience, stack, outputs, cwd)
    chosen = deployed.select_services(servers or [])
    server_names = [service.name for service in chosen if service.name in deployed.servers]
    tool_call = parse_call(call, arguments, server_names)
    bearer = read_bearer_token(bearer_file, chosen)
    golden_calls = read_golden_calls(golden, server_names)
    locks = {name: require_lock(cwd or Path.cwd(), name) for name in server_names} if locked else {}
    source = options.find_source(deployed, credentials, token_file, token_command, impersonate)
    tokens = IdTokens(source, chosen[0].audience)
    tokens.get()  # report a missing login once, not in every check
    not_invoker_source = source_from_file(not_invoker) if not_invoker else None
    callers = Callers(source, not_invoker_source, source if source.any_audience else None)
    default_options = CheckOptions(seconds=timeout)
    server_options = {
        name: replace(
            default_options,
            tools=expect_tool or (),
            call=tool_call[1] if tool_call is not None and tool_call[0] == name else None,
            bearer_token=bearer,
            lock=locks.get(name),
            golden_calls=golden_calls.get(name, ()),
        )
        for name in server_names
    }
    reports = asyncio.run(
        check_all([(service, callers, server_options.get(service.name, default_options)) for service in chosen])
    )
    identities = {service.name: tokens.identity for service in chosen}
    if as_json:
        _out.print(reports_json(reports, identities, deployed.clients), markup=False)
    else:
        print_reports(_out, reports, identities)
    raise typer.Exit(int(any(report.failed for report in reports)))


@app.command()
def doctor(
    server: Annotated[str | None, typer.Argument(help="A server's name in the fleet, or a URL.")] = None,
    project: Annotated[
        str | None, typer.Option(envvar="GOOGLE_CLOUD_PROJECT", help="The project to check, if you name no server.")
    ] = None,
    audience: options.Audience = None,
    stack: options.StackName = None,
    outputs: options.Outputs = None,
    cwd: options.Folder = None,
    credentials: options.Credentials = None,
    token_file: options.TokenFilePath = None,
    token_command: options.TokenCommandText = None,
    impersonate: options.Impersonate = None,
) -> None:
    """Find out why a server does not answer. Without a server, check whether this machine and the project can deploy.

    Exit code 1 if it finds a problem.
    """
    from mcpfleet import prerequisites
    from mcpfleet.doctor import examine
    from mcpfleet.google_sources import google_api
    from mcpfleet.reports import print_lines
    from mcpfleet.token_sources import UnusableSource

    _log_to_stderr()
    if server is None:
        print_lines(_out, "This machine", results := prerequisites.check_programs())
        if project is None:
            _out.print("To check a project, too, name it with --project.")
        else:
            project_results = prerequisites.check_project(project, google_api(os.environ), os.environ)
            print_lines(_out, f"Project {project}", project_results)
            results = [*results, *project_results]
    else:
        url = server if "://" in server else None
        deployed = options.find_stack(url, audience, stack, outputs, cwd)
        chosen = options.select_server(deployed, None if url else server, url, audience)
        source: TokenSource
        try:
            source = options.find_source(deployed, credentials, token_file, token_command, impersonate)
        except AuthError as error:
            source = UnusableSource(error)  # the checks without an identity still run
        results = examine(chosen, source)
        print_lines(_out, chosen.target.mcp_url, results)
    raise typer.Exit(int(any(line.kind == "bad" for line in results)))


@packages.command()
def lock(
    stack: Annotated[str | None, typer.Option("--stack", help="Lock one stack. Default: all stacks.")] = None,
    cwd: options.Folder = None,
    min_age: Annotated[int, typer.Option(help="Minimum age of a version, in days since it was published.", min=0)] = 7,
    renew: Annotated[bool, typer.Option("--renew", help="Replace existing locks.")] = False,
) -> None:
    """Lock the dependencies of npm and PyPI packages: each version with its hash, in packages.lock.

    It first looks up the servers of MCP registries and keeps their server.json there.

    `pulumi up` installs exactly the locked versions. In profile prod, it refuses a package without a lock. Commit the
    files. The command needs Docker: it runs the package managers that later install the packages.
    """
    import datetime

    from mcpfleet.packages import find_packages, lock_packages

    folder = cwd or Path.cwd()
    looked_up, fleet_packages = find_packages(folder, stack, renew=renew)
    for server in looked_up:
        _out.print(f"{markup_safe(server)}: looked up", highlight=False)
    unlocked = [package for package in fleet_packages if renew or not package.is_locked]
    for package in (package for package in fleet_packages if package not in unlocked):
        _out.print(f"{markup_safe(package.name)} is locked", highlight=False)
    for package in lock_packages(unlocked, datetime.datetime.now(datetime.UTC).date(), min_age):
        lock_folder = package.lock_folder.relative_to(folder).as_posix()
        _out.print(f"{markup_safe(package.name)} is locked now: {markup_safe(lock_folder)}", highlight=False)
    if not fleet_packages:
        _out.print("There is nothing to lock: no server is an npm or PyPI package.")


add_server_commands(app)
add_project_commands(app)


def _listen(port: int) -> socket.socket:
    """Open a listening socket on 127.0.0.1 only, because the port gives access with the user's identity.

    Raises:
        McpfleetError: The port is in use, or not permitted.
    """
    try:
        return system.listen(port)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise McpfleetError(
            f"Cannot listen on 127.0.0.1:{port}: {reason}. Choose another port with --port; 0 chooses a free one."
        ) from error


def _serve(application: Proxy, listener: socket.socket) -> None:
    """Serve the proxy until a signal stops it."""
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            application.cancel_requests()  # open event streams would delay the shutdown forever
            await super().shutdown(sockets)

    try:
        Server(server_config(application)).run(sockets=[listener])
    except KeyboardInterrupt:
        _out.print("stopped")


def server_config(application: ASGIApp) -> uvicorn.Config:
    """The configuration of the proxy's server, which adds nothing to the service's responses."""
    import uvicorn

    # uvicorn logs this if the service breaks off a response; the proxy has already logged the reason.
    logging.getLogger("uvicorn.error").addFilter(lambda record: "without completing" not in record.getMessage())
    return uvicorn.Config(
        application,
        # Not httptools: with it, uvicorn loses the body of a request with `Upgrade: h2c`, as Java's client sends.
        http="h11",
        # The service's own Date and Server headers are forwarded; two of each would be an error.
        date_header=False,
        server_header=False,
        proxy_headers=False,
        access_log=False,
        log_config=None,
        log_level="error",
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=1,
    )


def _log_to_stderr(level: int = logging.WARNING) -> None:
    # Not rich's handler: it wraps lines, and people cannot copy a wrapped command.
    handler = logging.StreamHandler()
    handler.setFormatter(InertFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("mcpfleet").setLevel(level)
    # This package reports a missing metadata server itself, in one message.
    logging.getLogger("google.auth").setLevel(logging.ERROR)


if __name__ == "__main__":
    main()
