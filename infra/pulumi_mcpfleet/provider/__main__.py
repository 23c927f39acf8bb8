"""Serves the component provider until the engine ends it: `pulumi-resource-mcpfleet ENGINE-ADDRESS`."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import grpc
import grpc.aio
from pulumi.runtime.proto import provider_pb2_grpc

from pulumi_mcpfleet.cloud_build.peers import HOST, REFUSAL, MayCall, may_call
from pulumi_mcpfleet.provider.components import Components

GLANCE: Final = 0.5
"""Seconds between two looks at whether the engine that started this process still runs."""

_MESSAGE_BYTES: Final = 400 * 1024 * 1024  # as the engine's own limit


class OwnUserInterceptor(grpc.aio.ServerInterceptor):
    """Rejects the calls of other users with PERMISSION_DENIED: the engine shows no credential (`cloud_build.peers`).

    Args:
        admits: Whether the program at the other end of a connection may call.

    Attributes:
        port: Where the server listens.
    """

    def __init__(self, admits: MayCall = may_call) -> None:
        self.port = 0
        self._admits = admits

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method's handler, behind the check; methods that stream are not the protocol's."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return None

        async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            address, _, port = context.peer().removeprefix("ipv4:").rpartition(":")
            if not port.isdecimal() or not self._admits((address, int(port)), (HOST, self.port)):
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, REFUSAL)
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)


async def serve(engine: str) -> None:
    """Serve on a free port of loopback, which is written to standard output, until a signal or the engine's end."""
    from pulumi.provider.server import ProviderServicer  # not in every process: see `Components`

    engine_process, guard = os.getppid(), OwnUserInterceptor()
    options = [
        ("grpc.max_receive_message_length", _MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MESSAGE_BYTES),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.aio.server(interceptors=[guard], options=options)
    servicer = ProviderServicer(cast("Any", Components()), [], engine_address=engine)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(servicer, server)
    guard.port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    sys.stdout.write(f"{guard.port}\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    # An engine that was killed sends no signal, and what it started here acts by the deployer's credentials.
    while os.getppid() == engine_process and not ended.is_set():
        try:
            await asyncio.wait_for(ended.wait(), GLANCE)
        except TimeoutError:
            continue
    await server.stop(grace=4)


def main() -> None:
    """Serve the engine that started this process."""
    parser = argparse.ArgumentParser(prog="pulumi-resource-mcpfleet", description=__doc__)
    parser.add_argument("engine", nargs="?", default="", help="where the engine takes messages")
    asyncio.run(serve(parser.parse_known_args()[0].engine))


if __name__ == "__main__":
    main()
