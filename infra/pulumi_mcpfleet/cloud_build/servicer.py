# ruff: noqa: D102, N802 - the methods are named by the protocol, and documented there (pulumi/proto/provider.proto)
"""The engine's gRPC protocol for the one resource of this provider."""

import os
import threading
from collections.abc import Callable
from typing import Final, TypeVar

import grpc
import httpx2
from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.runtime.proto import engine_pb2
from pulumi.runtime.proto import provider_pb2 as pb

from pulumi_mcpfleet.cloud_build import image
from pulumi_mcpfleet.cloud_build.builds import BuildRunner
from pulumi_mcpfleet.cloud_build.errors import BuildError, CancelledError, inert
from pulumi_mcpfleet.cloud_build.google import GoogleApis, find_credentials
from pulumi_mcpfleet.cloud_build.image import ImageResource, Properties
from pulumi_mcpfleet.cloud_build.plugin import Plugin, PulumiEngineLog
from pulumi_mcpfleet.cloud_build.registry import ImageRegistry

PACKAGE: Final = "mcpfleet-build"
VERSION: Final = "0.1.0"
_USER: Final = "oauth2accesstoken"
"""Artifact Registry's user name for "the password is an OAuth access token"."""

Response = TypeVar("Response")


class Provider(Plugin):
    """The provider, attached to one engine.

    Args:
        engine: The engine's address; empty to show no messages.
        environ: The environment; that of this process by default.
        transport: The HTTP transport; None for the network.
        pause: Waits for a number of seconds, or until an event is set.
    """

    package = PACKAGE
    version = VERSION

    def __init__(
        self,
        engine: str,
        environ: dict[str, str] | None = None,
        transport: httpx2.BaseTransport | None = None,
        pause: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        super().__init__((image.TYPE,))
        self._environ = dict(os.environ) if environ is None else environ
        self._transport = transport
        self._pause = pause
        self._stopped = threading.Event()
        self._engine = PulumiEngineLog(engine) if engine else None

    def stop(self) -> None:
        """Cancel the builds that are running."""
        self._stopped.set()

    # The plugin itself.

    def Handshake(
        self, request: pb.ProviderHandshakeRequest, context: grpc.ServicerContext
    ) -> pb.ProviderHandshakeResponse:
        return pb.ProviderHandshakeResponse()

    def Cancel(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> empty_pb2.Empty:
        self.stop()
        return empty_pb2.Empty()

    # It has no configuration of its own.

    def CheckConfig(self, request: pb.CheckRequest, context: grpc.ServicerContext) -> pb.CheckResponse:
        return pb.CheckResponse(inputs=request.news)

    def DiffConfig(self, request: pb.DiffRequest, context: grpc.ServicerContext) -> pb.DiffResponse:
        return pb.DiffResponse(changes=pb.DiffResponse.DIFF_NONE)

    def Configure(self, request: pb.ConfigureRequest, context: grpc.ServicerContext) -> pb.ConfigureResponse:
        return pb.ConfigureResponse(supportsPreview=True)

    # Its resource.

    def Check(self, request: pb.CheckRequest, context: grpc.ServicerContext) -> pb.CheckResponse:
        def respond() -> pb.CheckResponse:
            inputs, failures = image.check(_to_dict(request.news))
            reported = [pb.CheckFailure(property=failure.property, reason=failure.reason) for failure in failures]
            return pb.CheckResponse(inputs=_to_struct(inputs), failures=reported)

        return _respond(context, respond)

    def Diff(self, request: pb.DiffRequest, context: grpc.ServicerContext) -> pb.DiffResponse:
        differing, replacing = image.find_changes(_to_dict(request.olds), _to_dict(request.news))
        return pb.DiffResponse(
            changes=pb.DiffResponse.DIFF_SOME if differing else pb.DiffResponse.DIFF_NONE,
            diffs=differing,
            replaces=replacing,
        )

    def Create(self, request: pb.CreateRequest, context: grpc.ServicerContext) -> pb.CreateResponse:
        def respond() -> pb.CreateResponse:
            news = _to_dict(request.properties)
            if request.preview:
                return pb.CreateResponse(properties=_to_struct(self._image_resource(request.urn).preview({}, news)))
            outputs = self._image_resource(request.urn).create(news)
            return pb.CreateResponse(id=outputs["image"], properties=_to_struct(outputs))

        return _respond(context, respond)

    def Update(self, request: pb.UpdateRequest, context: grpc.ServicerContext) -> pb.UpdateResponse:
        def respond() -> pb.UpdateResponse:
            olds, news = _to_dict(request.olds), _to_dict(request.news)
            resource = self._image_resource(request.urn)
            outputs = resource.preview(olds, news) if request.preview else resource.update(olds, news)
            return pb.UpdateResponse(properties=_to_struct(outputs))

        return _respond(context, respond)

    def Read(self, request: pb.ReadRequest, context: grpc.ServicerContext) -> pb.ReadResponse:
        def respond() -> pb.ReadResponse:
            state = _to_dict(request.properties)
            if not state.get("digest"):
                raise (
                    BuildError(f"{image.TYPE} can't be imported: run an update, which builds it")
                    if not request.inputs.fields
                    else BuildError("its build was interrupted; run the update again")
                )
            if not self._image_resource(request.urn).exists(state):
                return pb.ReadResponse(id="")
            return pb.ReadResponse(id=request.id, properties=request.properties, inputs=request.inputs)

        return _respond(context, respond)

    def Delete(self, request: pb.DeleteRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        def respond() -> empty_pb2.Empty:
            self._image_resource(request.urn).delete(_to_dict(request.properties))
            return empty_pb2.Empty()

        return _respond(context, respond)

    def _image_resource(self, urn: str) -> ImageResource:
        def log(message: str) -> None:
            self._show(urn, message)

        def google_apis() -> GoogleApis:
            return GoogleApis(self._environ, find_credentials(self._environ), self._wait, self._transport)

        return ImageResource(
            builds=lambda: BuildRunner(google_apis(), log, self._wait),
            registry=lambda: ImageRegistry(lambda _: (_USER, google_apis().token()), self._transport),
        )

    def _wait(self, seconds: float) -> None:
        self._pause(self._stopped, seconds)
        if self._stopped.is_set():
            raise CancelledError("the update was stopped")

    def _show(self, urn: str, message: str) -> None:
        if self._engine is not None:
            self._engine.show(inert(message), urn, engine_pb2.INFO)


def _to_dict(struct: struct_pb2.Struct) -> Properties:
    return json_format.MessageToDict(struct)


def _to_struct(properties: Properties) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(properties)
    return struct


def _respond(context: grpc.ServicerContext, respond: Callable[[], Response]) -> Response:
    """Return the response, or abort the call with a message that the engine shows."""
    try:
        return respond()
    except BuildError as error:
        code = grpc.StatusCode.CANCELLED if isinstance(error, CancelledError) else grpc.StatusCode.UNKNOWN
        message = inert(str(error))
    except Exception as error:
        code, message = grpc.StatusCode.INTERNAL, f"{PACKAGE} failed ({type(error).__name__}: {inert(str(error))})"
    raise context.abort(code, message)  # abort itself raises
