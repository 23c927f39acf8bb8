"""Why a container does not serve: Google's sentence, the last log lines, and what to change.

Where a server listens is read from the kernel's tables of the container's network namespace, `/proc/net/tcp` and `tcp6`
(proc_net_tcp(5)); nothing is executed in the container.
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
"""Those that are shown."""
READ_LINES: Final = 200
"""Those that are looked at: a program that is started again and again says the same."""
_LISTEN: Final = "0A"
_REASON: Final = 300
_SIGTERM_BIT: Final = 1 << 14
_DOCKER_DNS: Final = "127.0.0.11"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a container was found when its startup was given up."""

    exit_code: int | None = None
    """None while it runs."""
    out_of_memory: bool = False
    refused: str = ""
    """What Docker said, where it could not even start the program."""
    listening: tuple[tuple[str, int], ...] = ()
    """The (address, port) pairs on which something in it listens."""
    answered: str = ""
    """What it answered to its probe by HTTP when that had failed: status, and on further lines its own words."""
    logs: str = ""
    platform: str = "linux/amd64"
    """That of the machine."""

    @cached_property
    def lines(self) -> list[str]:
        """What it logged, structured entries by their message; of lines that are alike but for numbers the last."""
        said = [_message(line) for line in self.logs.splitlines()]
        last = {re.sub(r"\d+", "0", line): at for at, line in enumerate(said)}
        return [said[at] for at in sorted(last.values())]


def _message(line: str) -> str:
    """The message of a structured entry (cloud.google.com/run/docs/logging), or the line as it is."""
    if not line.startswith("{"):
        return line
    try:
        message: object = json.loads(line).get("message")
    except (ValueError, RecursionError):
        return line
    return _shown(message) if isinstance(message, str) else line


def parse_listening(tables: str) -> list[tuple[str, int]]:
    """The listening sockets in tables as `/proc/net/tcp` and `tcp6` have them, without Docker's own name server."""
    found: list[tuple[str, int]] = []
    for line in tables.splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[3] == _LISTEN:
            address, port = fields[1].split(":")
            words = struct.iter_unpack("<I", bytes.fromhex(address))
            ip = ipaddress.ip_address(b"".join(struct.pack(">I", word) for (word,) in words))
            if str(ip) != _DOCKER_DNS:
                found.append((str(ip), int(port, 16)))
    return found


def catches_sigterm(caught: str) -> bool:
    """Whether a container's first process would notice a SIGTERM, by the mask of the signals that it catches (ps(1)).

    True where that can't be read. The kernel discards signals that PID 1 of a namespace has no handler for
    (pid_namespaces(7)), so waiting the 10 s before SIGKILL would change nothing for such a program.
    """
    mask = re.fullmatch(r"\s*<?([0-9a-fA-F]{1,32})\s*", caught)  # procps writes "<" before what it cut off
    return mask is None or bool(int(mask[1], 16) & _SIGTERM_BIT)


def report(revision: Revision, ending: Ending, container: Container | None = None) -> str:
    """The text of the `RolloutError`: what Google says, what the container said last, what to change.

    *container* is the one of *revision* that ended; its ingress container where it is not given.
    """
    container = container or revision.main
    parts = [f"Revision '{revision.name}' is not ready and cannot serve traffic. {_google_says(container, ending)}"]
    if len(revision.containers) > 1:
        parts.append(f"The container is '{container.name}'.")
    lines = ending.lines[-LOG_LINES:]
    if lines:
        parts.append("Last log lines:\n" + "\n".join(f"  {line}" for line in lines))
    else:
        parts.append("The container wrote no logs.")
    parts.append("What to change: " + diagnose(revision, ending, container))
    return "\n\n".join(parts)


def crash_words(container: Container, exit_code: int, *, out_of_memory: bool) -> str:
    """What Cloud Logging shows for an instance that ended by itself."""
    if out_of_memory:
        return (
            f"Memory limit of {_mebibytes(container)} MiB exceeded. Consider increasing the memory limit, see "
            "https://cloud.google.com/run/docs/configuring/memory-limits"
        )
    return f"Container called exit({exit_code})."


def diagnose(revision: Revision, ending: Ending, container: Container | None = None) -> str:
    """One or two sentences: the likely cause and the change that removes it."""
    container = container or revision.main
    said = f"{ending.refused}\n{ending.logs}".lower()
    if "exec format error" in said:
        emulated = (
            ""
            if ending.platform == "linux/amd64"
            else ", or let Docker emulate linux/amd64: docker run --privileged --rm tonistiigi/binfmt --install amd64"
        )
        return (
            f"the program is not built for {ending.platform} (or a script lacks its `#!` line). Build the image with "
            f"`--platform {ending.platform}`{emulated}."
        )
    if ending.out_of_memory:
        return (
            f"the container used more than its memory limit of {_mebibytes(container)} MiB and was killed. Give "
            "the server more memory, or let it use less at start."
        )
    if ending.refused:
        return f"Docker could not start the program: {ending.refused}. Correct `command` and `args`, or the image."
    if ending.exit_code is not None:
        return causes.told(ending.lines) or _about_exit(ending.exit_code, said)
    if ending.answered and not ending.answered.startswith(("2", "3")):  # else it does now, and did not in time
        return _about_answer(container, ending)
    return (causes.told(ending.lines) if not ending.listening else "") or _about_listening(container, ending)


def _google_says(container: Container, ending: Ending) -> str:
    more = "Logs for this revision might contain more information."
    if ending.out_of_memory:
        return crash_words(container, 137, out_of_memory=True)
    if ending.refused:
        return f"The container failed to start: {ending.refused}. {more}"
    if ending.exit_code is not None:
        code = ending.exit_code
        return (
            f"The user-provided container exited with code {code} before it passed its startup probe. "
            f"Container called exit({code}). {more}"
        )
    probe = container.startup_probe
    by_port = probe is None or (probe.http_path is None and probe.grpc_service is None)
    if container.port is None or not by_port:
        return f"The user-provided container failed the configured startup probe checks. {more}"
    return (
        "The user-provided container failed to start and listen on the port defined provided by the "
        f"PORT={container.port} environment variable within the allocated timeout. This can happen when the "
        "container port is misconfigured or if the timeout is too short. The health check timeout can be extended. "
        + more
    )


def _about_exit(code: int, said: str) -> str:
    if "permission denied" in said or "operation not permitted" in said:
        return (
            "the program was denied a right. As on Cloud Run it has few capabilities: check the owner and mode of "
            "the files it runs and writes, and the image's USER."
        )
    if code == 0:
        return (
            "the program ended by itself. It must stay in the foreground and serve on PORT until SIGTERM. An MCP "
            "server that speaks stdio ends like this, since nobody is on the other side: write `speaks: stdio` at its "
            "source."
        )
    if code in (126, 127):
        return "the program was not found or is not executable in the image. Correct `command`, `args` or the image."
    if code > 128:
        return f"the program was ended by signal {code - 128}. The log lines above say what it did last."
    return "the program failed at start; the log lines above say why. Correct that, or the variables it reads."


def _about_answer(container: Container, ending: Ending) -> str:
    """Of a server that answers its probe, and not 2xx or 3xx: what it says of itself, and what comes of that."""
    probe = container.startup_probe
    path = probe.http_path if probe is not None else ""
    status, _, body = ending.answered.partition("\n")
    if status.startswith("404"):
        return (
            f"the server has no {path}: it answers 404. Write the path of its health check as `health_path`, or leave "
            "that out, so that only the port is asked."
        )
    reason = _reason(body)
    if cause := causes.told([*ending.lines, reason]):
        return cause
    answer = f"the server answers GET {path} with {_shown(status)[:40]}"
    said = f" and says: {reason.removesuffix('.')}" if reason else ""
    return f"{answer}{said}. Correct what it says, or give the server longer."


def _reason(body: str) -> str:
    """The `reason` of a health check in JSON, as the bridge has it, or else the first line of its text."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        reason: object = cast("dict[str, object]", found).get("reason")
        return _shown(reason)[:_REASON] if isinstance(reason, str) else ""
    return "" if body.lstrip().startswith("<") else _shown(body.strip().partition("\n")[0])[:_REASON]


def _shown(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _about_listening(container: Container, ending: Ending) -> str:
    probe = container.startup_probe
    if probe is None:
        return "the container ran, but another one of its instance did not start."
    here = [address for address, port in ending.listening if port == probe.port]
    if here and all(ipaddress.ip_address(address).is_loopback for address in here):
        return (
            f"the server listens on {here[0]}:{probe.port}, which nothing outside the container reaches. Let it "
            f"listen on 0.0.0.0:{probe.port}."
        )
    if here and probe.http_path is not None:
        return (
            f"the server listens on port {probe.port} but did not answer 2xx or 3xx to GET {probe.http_path} in "
            "time. Correct the probe's path, or give the server longer."
        )
    if here and probe.grpc_service is not None:
        asked = f" of {probe.grpc_service}" if probe.grpc_service else ""
        return (
            f"the server listens on port {probe.port} but its gRPC health service (grpc.health.v1.Health) did not say"
            f"{asked} that it serves. Correct the probe's port or service, or give the server longer."
        )
    if here:
        return f"the server listens on port {probe.port} but accepted no connection in time."
    others = sorted({port for _, port in ending.listening})
    if others:
        named = ", ".join(str(port) for port in others)
        return (
            f"the server listens on port {named}, not on {probe.port}. Let it read PORT, or set the server's "
            f"`port` to {others[0]}."
        )
    return (
        f"the container runs, but nothing in it listens on any port. Start a server on 0.0.0.0:{probe.port}; if it "
        "needs longer to start, extend the startup probe. If it is an MCP server that speaks stdio, write "
        "`speaks: stdio` at its source."
    )


def _mebibytes(container: Container) -> int:
    return container.memory_bytes // (1024 * 1024)
