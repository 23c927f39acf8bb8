"""Explains why a container does not serve: Google's message, the last log lines, and what to change.

The ports on which a server listens are read from the kernel's tables of the container's network namespace,
`/proc/net/tcp` and `tcp6` (proc_net_tcp(5)); nothing is executed in the container.
"""

import ipaddress
import json
import re
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Final, cast

from mcpfleet_local_cloud.data_plane import causes
from mcpfleet_local_cloud.data_plane.contract import Container, Revision

LOG_LINES: Final = 20
"""Log lines that are shown."""
READ_LINES: Final = 200
"""Log lines that are read: more than are shown, because a restarting program repeats itself."""
_LISTEN: Final = "0A"
_REASON: Final = 300
_SIGTERM_BIT: Final = 1 << 14
_DOCKER_DNS: Final = "127.0.0.11"


@dataclass(frozen=True, kw_only=True)
class FailureDetails:
    """The state of a container whose startup failed."""

    exit_code: int | None = None
    """None while it runs."""
    out_of_memory: bool = False
    start_error: str = ""
    """Docker's error, if it could not start the program; else empty."""
    listening_on: tuple[tuple[str, int], ...] = ()
    """The (address, port) pairs on which its programs listen."""
    probe_response: str = ""
    """Its response to an HTTP probe after the startup failed: the status, and the body on further lines."""
    logs: str = ""
    platform: str = "linux/amd64"
    """The platform of the Docker engine's machine."""

    @cached_property
    def log_lines(self) -> list[str]:
        """The log lines: the message of structured entries; of lines that differ only in numbers, the last one."""
        messages = [_message(line) for line in self.logs.splitlines()]
        last = {re.sub(r"\d+", "0", line): index for index, line in enumerate(messages)}
        return [messages[index] for index in sorted(last.values())]


def _message(line: str) -> str:
    """The message of a structured log entry (cloud.google.com/run/docs/logging), or the unchanged line."""
    if not line.startswith("{"):
        return line
    try:
        message: object = json.loads(line).get("message")
    except (ValueError, RecursionError):
        return line
    return _printable(message) if isinstance(message, str) else line


def parse_listening(tables: str) -> list[tuple[str, int]]:
    """Parse the listening sockets from `/proc/net/tcp` and `tcp6`, without those of Docker's own name server."""
    sockets: list[tuple[str, int]] = []
    for line in tables.splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[3] == _LISTEN:
            address, port = fields[1].split(":")
            words = struct.iter_unpack("<I", bytes.fromhex(address))
            ip = ipaddress.ip_address(b"".join(struct.pack(">I", word) for (word,) in words))
            if str(ip) != _DOCKER_DNS:
                sockets.append((str(ip), int(port, 16)))
    return sockets


def catches_sigterm(caught_mask: str) -> bool:
    """Return whether a container's first process handles SIGTERM, by the mask of its caught signals (ps(1)).

    True if the mask can't be read. The kernel discards signals for which PID 1 of a namespace has no handler
    (pid_namespaces(7)), so waiting 10 s before SIGKILL would not help such a program.
    """
    mask = re.fullmatch(r"\s*<?([0-9a-fA-F]{1,32})\s*", caught_mask)  # procps writes "<" before a truncated mask
    return mask is None or bool(int(mask[1], 16) & _SIGTERM_BIT)


def describe_failure(revision: Revision, details: FailureDetails, container: Container | None = None) -> str:
    """Return the text of a `RolloutError`: Google's message, the last log lines, and what to change.

    *container* is the one of *revision* that failed; its ingress container by default.
    """
    container = container or revision.main
    parts = [f"Revision '{revision.name}' is not ready and cannot serve traffic. {_google_message(container, details)}"]
    if len(revision.containers) > 1:
        parts.append(f"The container is '{container.name}'.")
    lines = details.log_lines[-LOG_LINES:]
    if lines:
        parts.append("Last log lines:\n" + "\n".join(f"  {line}" for line in lines))
    else:
        parts.append("The container wrote no logs.")
    parts.append("What to change: " + diagnose(revision, details, container))
    return "\n\n".join(parts)


def crash_message(container: Container, exit_code: int, *, out_of_memory: bool) -> str:
    """The message of Cloud Logging for an instance that ended by itself."""
    if out_of_memory:
        return (
            f"Memory limit of {_mebibytes(container)} MiB exceeded. Consider increasing the memory limit, see "
            "https://cloud.google.com/run/docs/configuring/memory-limits"
        )
    return f"Container called exit({exit_code})."


def diagnose(revision: Revision, details: FailureDetails, container: Container | None = None) -> str:
    """Return the likely cause and the change that removes it, in one or two sentences."""
    container = container or revision.main
    output = f"{details.start_error}\n{details.logs}".lower()
    if "exec format error" in output:
        emulation_hint = (
            ""
            if details.platform == "linux/amd64"
            else ", or let Docker emulate linux/amd64: docker run --privileged --rm tonistiigi/binfmt --install amd64"
        )
        return (
            f"the program is not built for {details.platform} (or a script lacks its `#!` line). Build the image with "
            f"`--platform {details.platform}`{emulation_hint}."
        )
    if details.out_of_memory:
        return (
            f"the container used more than its memory limit of {_mebibytes(container)} MiB and was killed. Give "
            "the server more memory, or let it use less at start."
        )
    if details.start_error:
        return f"Docker could not start the program: {details.start_error}. Correct `command` and `args`, or the image."
    if details.exit_code is not None:
        return causes.find_advice(details.log_lines) or _advise_on_exit(details.exit_code, output)
    if details.probe_response and not details.probe_response.startswith(
        ("2", "3")
    ):  # otherwise it succeeds now, but did not in time
        return _advise_on_response(container, details)
    return (causes.find_advice(details.log_lines) if not details.listening_on else "") or _advise_on_sockets(
        container, details
    )


def _google_message(container: Container, details: FailureDetails) -> str:
    logs_hint = "Logs for this revision might contain more information."
    if details.out_of_memory:
        return crash_message(container, 137, out_of_memory=True)
    if details.start_error:
        return f"The container failed to start: {details.start_error}. {logs_hint}"
    if details.exit_code is not None:
        code = details.exit_code
        return (
            f"The user-provided container exited with code {code} before it passed its startup probe. "
            f"Container called exit({code}). {logs_hint}"
        )
    probe = container.startup_probe
    is_tcp_probe = probe is None or (probe.http_path is None and probe.grpc_service is None)
    if container.port is None or not is_tcp_probe:
        return f"The user-provided container failed the configured startup probe checks. {logs_hint}"
    return (
        "The user-provided container failed to start and listen on the port defined provided by the "
        f"PORT={container.port} environment variable within the allocated timeout. This can happen when the "
        "container port is misconfigured or if the timeout is too short. The health check timeout can be extended. "
        + logs_hint
    )


def _advise_on_exit(code: int, output: str) -> str:
    if "permission denied" in output or "operation not permitted" in output:
        return (
            "the program lacks a permission. As on Cloud Run it has few capabilities: check the owner and mode of "
            "the files it runs and writes, and the image's USER."
        )
    if code == 0:
        return (
            "the program ended by itself. It must stay in the foreground and serve on PORT until SIGTERM. An MCP "
            "server that speaks stdio ends like this, because no client is connected: write `speaks: stdio` at its "
            "source."
        )
    if code in (126, 127):
        return "the program was not found or is not executable in the image. Correct `command`, `args` or the image."
    if code > 128:
        return f"the program was ended by signal {code - 128}. The log lines above show what it did last."
    return "the program failed at start; see the log lines above. Correct the cause, or the variables it reads."


def _advise_on_response(container: Container, details: FailureDetails) -> str:
    """Advise on a server whose response to its probe is not 2xx or 3xx."""
    probe = container.startup_probe
    path = probe.http_path if probe is not None else ""
    status, _, body = details.probe_response.partition("\n")
    if status.startswith("404"):
        return (
            f"the server has no {path}: it answers 404. Write the path of its health check as `health_path`, or leave "
            "that out, so that only the port is probed."
        )
    reason = _health_reason(body)
    if cause := causes.find_advice([*details.log_lines, reason]):
        return cause
    response = f"the server answers GET {path} with {_printable(status)[:40]}"
    reason_text = f" and says: {reason.removesuffix('.')}" if reason else ""
    return f"{response}{reason_text}. Correct what it says, or give the server longer."


def _health_reason(body: str) -> str:
    """The `reason` in a JSON health check, which the bridge sends; else the first line of the text."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        reason: object = cast("dict[str, object]", document).get("reason")
        return _printable(reason)[:_REASON] if isinstance(reason, str) else ""
    return "" if body.lstrip().startswith("<") else _printable(body.strip().partition("\n")[0])[:_REASON]


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _advise_on_sockets(container: Container, details: FailureDetails) -> str:
    probe = container.startup_probe
    if probe is None:
        return "the container ran, but another container of its instance did not start."
    addresses = [address for address, port in details.listening_on if port == probe.port]
    if addresses and all(ipaddress.ip_address(address).is_loopback for address in addresses):
        return (
            f"the server listens on {addresses[0]}:{probe.port}, which nothing outside the container reaches. Let it "
            f"listen on 0.0.0.0:{probe.port}."
        )
    if addresses and probe.http_path is not None:
        return (
            f"the server listens on port {probe.port} but did not answer 2xx or 3xx to GET {probe.http_path} in "
            "time. Correct the probe's path, or give the server longer."
        )
    if addresses and probe.grpc_service is not None:
        service_text = f" of {probe.grpc_service}" if probe.grpc_service else ""
        return (
            f"the server listens on port {probe.port} but its gRPC health service (grpc.health.v1.Health) did not say"
            f"{service_text} that it serves. Correct the probe's port or service, or give the server longer."
        )
    if addresses:
        return f"the server listens on port {probe.port} but accepted no connection in time."
    other_ports = sorted({port for _, port in details.listening_on})
    if other_ports:
        port_list = ", ".join(str(port) for port in other_ports)
        return (
            f"the server listens on port {port_list}, not on {probe.port}. Let it read PORT, or set the server's "
            f"`port` to {other_ports[0]}."
        )
    return (
        f"the container runs, but nothing in it listens on any port. Start a server on 0.0.0.0:{probe.port}; if it "
        "needs longer to start, extend the startup probe. If it is an MCP server that speaks stdio, write "
        "`speaks: stdio` at its source."
    )


def _mebibytes(container: Container) -> int:
    return container.memory_bytes // (1024 * 1024)
