"""Publishes one container port in the engine's network and on this machine, as Docker Desktop does.

dockerd starts it in the stead of docker-proxy (`--userland-proxy-path`), with the same arguments, and waits for a line
at descriptor 3: `0`, or `1` and what is wrong. RELAY_NETWORK names this machine's network namespace.
"""

import argparse
import asyncio
import contextlib
import ctypes
import os
import socket

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET of sched.h


def _enter(network):
    if ctypes.CDLL(None, use_errno=True).setns(network, _NEW_NETWORK) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _listen(network, address):
    """A listening socket stays in the network in which it was made."""
    _enter(network)
    listener = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(1024)
    return listener


async def _copy(reader, writer):
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def _serve(listeners, container):
    async def relay(reader, writer):
        with contextlib.suppress(OSError):
            to_reader, to_writer = await asyncio.open_connection(*container)
            await asyncio.gather(_copy(reader, to_writer), _copy(to_reader, writer))
            to_writer.close()
        writer.close()

    servers = [await asyncio.start_server(relay, sock=listener) for listener in listeners]
    await asyncio.gather(*(server.serve_forever() for server in servers))


def main():
    options = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("proto", "host-ip", "container-ip"):
        options.add_argument(f"-{name}", f"--{name}")
    for name in ("host-port", "container-port"):
        options.add_argument(f"-{name}", f"--{name}", type=int)
    asked, _ = options.parse_known_args()
    with os.fdopen(3, "w") as ready:
        try:
            own = os.open("/proc/self/ns/net", os.O_RDONLY)
            machine = os.open(os.environ["RELAY_NETWORK"], os.O_RDONLY)
            address = (asked.host_ip, asked.host_port)
            listeners = [_listen(network, address) for network in (machine, own)]
        except (OSError, KeyError) as error:
            ready.write(f"1\n{error!r}\n")
            return
        ready.write("0\n")
    asyncio.run(_serve(listeners, (asked.container_ip, asked.container_port)))


if __name__ == "__main__":
    main()
