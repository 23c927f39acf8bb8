# ruff: noqa: D102, N802 - the methods are named by the protocol, and documented there (pulumi/proto/provider.proto)
"""The parts that all providers of this repository share: their description for the engine, and their gRPC server.

The SDK's server for providers in Python (`pulumi.provider.experimental`) answers an error with a traceback, which no
user should see. So this is a server of its own for the same protocol.
"""

import json
import logging
import signal
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Final

import grpc
from google.protobuf import empty_pb2
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, plugin_pb2
from pulumi.runtime.proto import provider_pb2 as pb
from pulumi.runtime.proto.provider_pb2_grpc import ResourceProviderServicer, add_ResourceProviderServicer_to_server

from pulumi_mcpfleet.cloud_build import peers

POLL_SECONDS: Final = 0.5
"""Seconds between two checks whether the process that started the provider is alive."""

_MESSAGE_BYTES: Final = 400 * 1024 * 1024  # as the engine's own limit
_log = logging.getLogger(__name__)


class Plugin(ResourceProviderServicer):
    """The base class of the provider plugins.

    Args:
        types: The tokens of its resources.
        functions: The tokens of its functions.
    """

    package: ClassVar[str]
    version: ClassVar[str]

    def __init__(self, types: Iterable[str], functions: Iterable[str] = ()) -> None:
        self._schema = json.dumps(
            {
                "name": self.package,
                "version": self.version,
                "resources": {token: {} for token in types},
                "functions": {token: {} for token in functions},
            }
        )

    def GetPluginInfo(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=self.version)

    def GetSchema(self, request: pb.GetSchemaRequest, context: grpc.ServicerContext) -> pb.GetSchemaResponse:
        return pb.GetSchemaResponse(schema=self._schema)

    def GetMapping(self, request: pb.GetMappingRequest, context: grpc.ServicerContext) -> pb.GetMappingResponse:
        return pb.GetMappingResponse()

    def GetMappings(self, request: pb.GetMappingsRequest, context: grpc.ServicerContext) -> pb.GetMappingsResponse:
        return pb.GetMappingsResponse()


class PulumiEngineLog:
    """Shows messages to the user through the Pulumi engine.

    Args:
        address: The address at which the engine receives messages.
    """

    def __init__(self, address: str) -> None:
        self._stub = engine_pb2_grpc.EngineStub(grpc.insecure_channel(address))

    def show(
        self, message: str, urn: str, severity: "engine_pb2.LogSeverity.ValueType", *, ephemeral: bool = False
    ) -> None:
        """Show *message* for the resource *urn*; an *ephemeral* message disappears when the operation ends."""
        request = engine_pb2.LogRequest(severity=severity, message=message, urn=urn, ephemeral=ephemeral)
        try:
            self._stub.Log(request, timeout=5)  # pyright: ignore[reportUnknownMemberType]  generic in the stubs
        except grpc.RpcError as error:  # the engine is ending
            _log.debug("the engine accepts no messages: %s", error)


def serve(provider: Plugin, workers: int, port: int = 0) -> tuple[grpc.Server, int]:
    """Start *provider* on loopback.

    Args:
        provider: The provider.
        workers: The number of concurrent calls; each blocks a thread.
        port: The port; 0 for any free one.

    Returns:
        The running server and its port.

    Raises:
        OSError: The port is in use.
    """
    limits = [("grpc.max_receive_message_length", _MESSAGE_BYTES), ("grpc.max_send_message_length", _MESSAGE_BYTES)]
    server = peers.create_server(ThreadPoolExecutor(workers, provider.package), [*limits, ("grpc.so_reuseport", 0)])
    try:
        bound_port = server.add_insecure_port(f"{peers.HOST}:{port}")
    except RuntimeError as error:
        raise OSError(f"port {port} on {peers.HOST} is in use; choose another or leave the option out") from error
    add_ResourceProviderServicer_to_server(provider, server)
    server.start()
    return server, bound_port


def stop_on_signals() -> threading.Event:
    """Return an event that is set when this process receives SIGTERM or SIGINT."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stopped.set())
    return stopped
