"""Why a container does not serve: Google's sentence, the last log lines, and what to change.

Where a server listens is read from the kernel's tables of the container's network namespace, `/proc/net/tcp` and `tcp6`
(proc_net_tcp(5)); nothing is executed in the container.
"""

import ipaddress
import re
import struct
from dataclasses import dataclass
from typing import Final

from mcpfleet_local_cloud.data_plane.contract import Container, Revision

LOG_LINES: Final = 20
_LISTEN: Final = "0A"
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
    logs: str = ""
    platform: str = "linux/amd64"
    """That of the machine."""


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
    lines = ending.logs.splitlines()[-LOG_LINES:]
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
        return _about_exit(ending.exit_code, said)
    return _about_listening(container, ending)


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
    if container.port is None or (container.startup_probe and container.startup_probe.http_path is not None):
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
        return "the program ended by itself. It must stay in the foreground and serve on PORT until SIGTERM."
    if code in (126, 127):
        return "the program was not found or is not executable in the image. Correct `command`, `args` or the image."
    if code > 128:
        return f"the program was ended by signal {code - 128}. The log lines above say what it did last."
    return "the program failed at start; the log lines above say why. Correct that, or the variables it reads."


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
        "needs longer to start, extend the startup probe."
    )


def _mebibytes(container: Container) -> int:
    return container.memory_bytes // (1024 * 1024)
