"""A gRPC server for the Pulumi engine, which answers nobody but the user who runs it.

The engine dials its providers as plain gRPC on 127.0.0.1 and shows no credential, so anybody with an account on the
machine could have one read files, and act by the deployer's credentials. What a caller cannot choose is its user:
`/proc/net/tcp` and `tcp6` of Linux (proc(5)) have a line for each connection, with the user who made the socket. They
are those of this process's network namespace, which is also the only one that reaches its 127.0.0.1.
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


def owner(peer: tuple[str, int], ours: tuple[str, int], table: str) -> int | None:
    """The user who holds the socket *peer* of the connection to our socket *ours*; None: nobody can be named.

    A socket that its program has closed is still in the table for a while, as user 0 without an inode: whoever sends
    and hangs up at once would be root. So only an open connection counts.

    Args:
        peer: The other end's IPv4 address and port.
        ours: Our end's.
        table: The text of one of the kernel's tables. A program may use an IPv6 socket for IPv4.
    """
    near, far = _written(peer), _written(ours)
    if near is None or far is None:
        return None
    found: set[int] = set()
    for wanted in (f" {near} {far} {_ESTABLISHED} ", f" {_MAPPED}{near} {_MAPPED}{far} {_ESTABLISHED} "):
        start = table.find(wanted)
        while start >= 0:
            line = table[table.rfind("\n", 0, start) + 1 :].partition("\n")[0].split()
            start = table.find(wanted, start + 1)
            if len(line) <= _INODE or not all(line[at].isascii() and line[at].isdecimal() for at in (_UID, _INODE)):
                return None
            if int(line[_INODE]) != 0:
                found.add(int(line[_UID]))
    return found.pop() if len(found) == 1 else None


def may_call(peer: tuple[str, int], ours: tuple[str, int], tables: Iterable[Path] = TABLES) -> bool:
    """Whether the program at the other end is of this user or of root.

    True on a machine without such tables (macOS): nothing can be known there.
    """
    known = False
    for table in tables:  # each takes the kernel milliseconds, and the engine is in the first
        if not table.exists():
            continue
        known = True
        try:
            found = owner(peer, ours, table.read_text(encoding="ascii", errors="replace"))
        except OSError:
            return False
        if found is not None:
            return found in {0, os.geteuid()}
    return not known


def _written(end: tuple[str, int]) -> str | None:
    """An end of a connection as the tables write it."""
    try:
        return f"{int.from_bytes(socket.inet_aton(end[0]), sys.byteorder):08X}:{end[1]:04X}"
    except OSError:
        return None


HOST: Final = "127.0.0.1"
_PEER: Final = re.compile(r"ipv4:(127\.\d{1,3}\.\d{1,3}\.\d{1,3}):(\d{1,5})")

REFUSED: Final = (
    "this port is for the Pulumi engine of the user who started it (or of root); the caller is another user, or its "
    "connection has ended. Run the engine as that user"
)

_REMEMBERED: Final = 0.25
"""Seconds for which a connection is not looked up again: a look costs milliseconds, and the engine calls in bursts.
Another user cannot have the address of a closed connection that soon: Linux keeps it for a second, on loopback too."""

_KEPT: Final = 1000

MayCall = Callable[[tuple[str, int], tuple[str, int]], bool]


class OwnUserOnly(grpc.ServerInterceptor):
    """Refuses the calls of other users with PERMISSION_DENIED.

    Args:
        admits: Whether the program at the other end of a connection may call.
        clock: Seconds, from anywhere.

    Attributes:
        port: Where the server listens.
    """

    def __init__(self, admits: MayCall = may_call, clock: Callable[[], float] = time.monotonic) -> None:
        self.port = 0
        self._admits = admits
        self._clock = clock
        self._admitted: dict[str, float] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method's handler, behind the check."""
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
        if self._admitted.get(peer, now) > now:
            return
        found = _PEER.fullmatch(peer)
        if found is None or not self._admits((found[1], int(found[2])), (HOST, self.port)):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, REFUSED)
        if len(self._admitted) > _KEPT:
            self._admitted.clear()
        self._admitted[peer] = now + _REMEMBERED


def server(pool: ThreadPoolExecutor, options: Any = None, **more: Any) -> grpc.Server:
    """As `grpc.server`, but it answers this user only.

    Args:
        pool: Runs the calls.
        options: gRPC's own.
        more: gRPC's own.
    """
    guard = OwnUserOnly()
    made = _UNGUARDED(pool, interceptors=[guard], options=options, **more)
    take: Callable[[str], int] = made.add_insecure_port

    def add_insecure_port(address: str) -> int:
        guard.port = take(address)
        return guard.port

    made.add_insecure_port = add_insecure_port
    return made


_UNGUARDED: Final = grpc.server


@contextmanager
def guarding() -> Generator[None]:
    """Meanwhile every server that this process makes answers this user only.

    For those of Pulumi's Automation API, where the engine has the program run and reports what happens: it offers no
    place for an interceptor.
    """
    grpc.server = server
    try:
        yield
    finally:
        grpc.server = _UNGUARDED
