"""A gRPC server for the Pulumi engine that rejects the calls of other users.

The engine calls its providers over plain gRPC on 127.0.0.1 without a credential. Anybody with an account on the machine
could therefore make a provider read files, and use the deployer's credentials. A caller cannot forge its user:
`/proc/net/tcp` and `tcp6` of Linux (proc(5)) have a line for each connection, with the user who made the socket. They
cover this process's network namespace, the only one that can reach its 127.0.0.1.
"""

import os
import re
import socket
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc

TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))

_ESTABLISHED: Final = "01"
# A word of an address is written as this machine's own number: "FFFF0000" on most.
_MAPPED: Final = "0" * 16 + f"{int.from_bytes(bytes.fromhex('0000ffff'), sys.byteorder):08X}"
_UID, _INODE = 7, 9


def find_owner(peer: tuple[str, int], local: tuple[str, int], table: str) -> int | None:
    """Return the id of the user who owns the other end of a connection, or None if the tables don't identify one.

    A socket that its program has closed stays in the table for a while, as user 0 without an inode: a caller that sends
    and closes at once would look like root. So only open connections count.

    Args:
        peer: The other end's IPv4 address and port.
        local: This end's IPv4 address and port.
        table: The text of one of the kernel's tables. A program can use an IPv6 socket for IPv4.
    """
    near, far = _format_endpoint(peer), _format_endpoint(local)
    if near is None or far is None:
        return None
    owners: set[int] = set()
    for entry in (f" {near} {far} {_ESTABLISHED} ", f" {_MAPPED}{near} {_MAPPED}{far} {_ESTABLISHED} "):
        start = table.find(entry)
        while start >= 0:
            line = table[table.rfind("\n", 0, start) + 1 :].partition("\n")[0].split()
            start = table.find(entry, start + 1)
            if len(line) <= _INODE or not all(
                line[column].isascii() and line[column].isdecimal() for column in (_UID, _INODE)
            ):
                return None
            if int(line[_INODE]) != 0:
                owners.add(int(line[_UID]))
    return owners.pop() if len(owners) == 1 else None


def may_call(peer: tuple[str, int], local: tuple[str, int], tables: Iterable[Path] = TABLES) -> bool:
    """Whether the program at the other end of a connection runs as this user or as root.

    True on a machine without these tables (macOS), where the user can't be determined.
    """
    has_tables = False
    for table in tables:  # each takes the kernel milliseconds; the engine is in the first
        if not table.exists():
            continue
        has_tables = True
        try:
            owner = find_owner(peer, local, table.read_text(encoding="ascii", errors="replace"))
        except OSError:
            return False
        if owner is not None:
            return owner in {0, os.geteuid()}
    return not has_tables


def _format_endpoint(endpoint: tuple[str, int]) -> str | None:
    """Format an end of a connection as the kernel's tables do."""
    try:
        return f"{int.from_bytes(socket.inet_aton(endpoint[0]), sys.byteorder):08X}:{endpoint[1]:04X}"
    except OSError:
        return None


HOST: Final = "127.0.0.1"
_PEER: Final = re.compile(r"ipv4:(127\.\d{1,3}\.\d{1,3}\.\d{1,3}):(\d{1,5})")

REFUSAL: Final = (
    "this port is for the Pulumi engine of the user who started it (or of root); the caller is another user, or its "
    "connection has ended. Run the engine as that user"
)

_CACHE_SECONDS: Final = 0.25
"""Seconds for which a result is cached: a lookup costs milliseconds, and the engine calls in bursts. Another user can't
get the address of a closed connection that soon: Linux reserves it for a second, also on loopback."""

_MAX_CACHED: Final = 1000

MayCall = Callable[[tuple[str, int], tuple[str, int]], bool]


class OwnUserInterceptor(grpc.ServerInterceptor):
    """Rejects the calls of other users with PERMISSION_DENIED.

    Args:
        check: Whether the program at the other end of a connection may call.
        clock: Returns a monotonic time in seconds.

    Attributes:
        port: The port on which the server listens.
    """

    def __init__(self, check: MayCall = may_call, clock: Callable[[], float] = time.monotonic) -> None:
        self.port = 0
        self._may_call = check
        self._clock = clock
        self._allowed_until: dict[str, float] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the method's handler, preceded by the check."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        run: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            self._check(context)
            return run(request, context)

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            self._check(context)
            yield from run(request, context)

        checked: Any = stream if handler.response_streaming else answer
        return make(checked, handler.request_deserializer, handler.response_serializer)

    def _check(self, context: grpc.ServicerContext) -> None:
        peer, now = context.peer(), self._clock()
        if self._allowed_until.get(peer, now) > now:
            return
        match = _PEER.fullmatch(peer)
        if match is None or not self._may_call((match[1], int(match[2])), (HOST, self.port)):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, REFUSAL)
        if len(self._allowed_until) > _MAX_CACHED:
            self._allowed_until.clear()
        self._allowed_until[peer] = now + _CACHE_SECONDS


def create_server(pool: ThreadPoolExecutor, options: Any = None, **settings: Any) -> grpc.Server:
    """Create a gRPC server like `grpc.server` that answers only this user.

    Args:
        pool: The threads that run the calls.
        options: gRPC's channel options.
        settings: Further arguments of `grpc.server`.
    """
    interceptor = OwnUserInterceptor()
    server = _GRPC_SERVER(pool, interceptors=[interceptor], options=options, **settings)
    add_port: Callable[[str], int] = server.add_insecure_port

    def add_insecure_port(address: str) -> int:
        interceptor.port = add_port(address)
        return interceptor.port

    server.add_insecure_port = add_insecure_port
    return server


_GRPC_SERVER: Final = grpc.server


@contextmanager
def restrict_servers() -> Generator[None]:
    """Within this context, every gRPC server that this process creates answers only this user.

    This is for the servers of Pulumi's Automation API, through which the engine runs the program and reports events:
    the API has no option for an interceptor.
    """
    grpc.server = create_server
    try:
        yield
    finally:
        grpc.server = _GRPC_SERVER
