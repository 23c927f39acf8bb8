"""Which user of this machine holds the other end of a loopback connection, by the kernel's own tables.

A port of 127.0.0.1 is open to every user of a machine, and a plain connection says nothing of who opened it. Linux
does: `/proc/net/tcp` and `tcp6` (proc(5)) have a line for each connection, with the user who made the socket. The
tables are those of this process's network namespace, which is also the only one that reaches its 127.0.0.1.
"""

import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

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
