# ruff: noqa: D102, N802 - the methods are named by the protocol, and documented there (pulumi/proto/provider.proto)
"""What every provider of ours says of itself to the engine, and the process that serves it.

The SDK's own server for providers in Python (`pulumi.provider.experimental`) answers a mistake with a traceback, which
no user should see; so this is one of its own, of the same messages.
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

GLANCE: Final = 0.5
"""Seconds between two looks at whether the process that needs a provider lives."""

_MESSAGE_BYTES: Final = 400 * 1024 * 1024  # as the engine's own limit
_log = logging.getLogger(__name__)


class Plugin(ResourceProviderServicer):
    """A provider plugin, as far as all of them are the same.

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


class EngineLog:
    """The engine, as far as it shows messages.

    Args:
        address: Where it takes them.
    """

    def __init__(self, address: str) -> None:
        self._stub = engine_pb2_grpc.EngineStub(grpc.insecure_channel(address))

    def show(
        self, message: str, urn: str, severity: "engine_pb2.LogSeverity.ValueType", *, passing: bool = False
    ) -> None:
        """Show *message* beside the resource *urn*; *passing*: while it goes on only."""
        said = engine_pb2.LogRequest(severity=severity, message=message, urn=urn, ephemeral=passing)
        try:
            self._stub.Log(said, timeout=5)  # pyright: ignore[reportUnknownMemberType]  generic in the stubs
        except grpc.RpcError as error:  # it is ending; nobody reads any more
            _log.debug("the engine takes no messages: %s", error)


def serve(provider: Plugin, workers: int, port: int = 0) -> tuple[grpc.Server, int]:
    """Start *provider* on loopback.

    Args:
        provider: What answers.
        workers: How many calls at once: each blocks a thread.
        port: Where; 0 means any free one.

    Returns:
        The running server and its port.

    Raises:
        OSError: The port is taken.
    """
    limits = [("grpc.max_receive_message_length", _MESSAGE_BYTES), ("grpc.max_send_message_length", _MESSAGE_BYTES)]
    server = peers.server(ThreadPoolExecutor(workers, provider.package), [*limits, ("grpc.so_reuseport", 0)])
    try:
        bound = server.add_insecure_port(f"{peers.HOST}:{port}")
    except RuntimeError as error:
        raise OSError(f"port {port} on {peers.HOST} is taken; choose another or leave the option out") from error
    add_ResourceProviderServicer_to_server(provider, server)
    server.start()
    return server, bound


def stopped_by_signal() -> threading.Event:
    """Set when this process is told to end."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ended.set())
    return ended
