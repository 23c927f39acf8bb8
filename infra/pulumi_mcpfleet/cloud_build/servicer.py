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
from pulumi_mcpfleet.cloud_build.builds import Builds
from pulumi_mcpfleet.cloud_build.errors import BuildError, CancelledError, inert
from pulumi_mcpfleet.cloud_build.google import Google, find_credentials
from pulumi_mcpfleet.cloud_build.image import Image, Properties
from pulumi_mcpfleet.cloud_build.plugin import EngineLog, Plugin
from pulumi_mcpfleet.cloud_build.registry import Registry

PACKAGE: Final = "mcpfleet-build"
VERSION: Final = "0.1.0"
_USER: Final = "oauth2accesstoken"
"""Artifact Registry's user name for "the password is an OAuth access token"."""

Answer = TypeVar("Answer")


class Provider(Plugin):
    """The provider, attached to one engine.

    Args:
        engine: The engine's address; empty: nobody takes messages.
        environ: The variables of this process.
        transport: What carries HTTP requests; the network where it is None.
        pause: Waits for so many seconds, or until an event is set; `threading.Event.wait` where it is not given.
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
        self._engine = EngineLog(engine) if engine else None

    def stop(self) -> None:
        """Cancel whatever is under way."""
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
        def answer() -> pb.CheckResponse:
            inputs, failures = image.check(_read(request.news))
            found = [pb.CheckFailure(property=one.property, reason=one.reason) for one in failures]
            return pb.CheckResponse(inputs=_written(inputs), failures=found)

        return _answered(context, answer)

    def Diff(self, request: pb.DiffRequest, context: grpc.ServicerContext) -> pb.DiffResponse:
        differing, replacing = image.changes(_read(request.olds), _read(request.news))
        return pb.DiffResponse(
            changes=pb.DiffResponse.DIFF_SOME if differing else pb.DiffResponse.DIFF_NONE,
            diffs=differing,
            replaces=replacing,
        )

    def Create(self, request: pb.CreateRequest, context: grpc.ServicerContext) -> pb.CreateResponse:
        def answer() -> pb.CreateResponse:
            news = _read(request.properties)
            if request.preview:
                return pb.CreateResponse(properties=_written(self._image(request.urn).planned({}, news)))
            made = self._image(request.urn).create(news)
            return pb.CreateResponse(id=made["image"], properties=_written(made))

        return _answered(context, answer)

    def Update(self, request: pb.UpdateRequest, context: grpc.ServicerContext) -> pb.UpdateResponse:
        def answer() -> pb.UpdateResponse:
            olds, news = _read(request.olds), _read(request.news)
            ours = self._image(request.urn)
            made = ours.planned(olds, news) if request.preview else ours.update(olds, news)
            return pb.UpdateResponse(properties=_written(made))

        return _answered(context, answer)

    def Read(self, request: pb.ReadRequest, context: grpc.ServicerContext) -> pb.ReadResponse:
        def answer() -> pb.ReadResponse:
            state = _read(request.properties)
            if not state.get("digest"):
                raise (
                    BuildError(f"{image.TYPE} can't be imported: run an update, which builds it")
                    if not request.inputs.fields
                    else BuildError("its build was interrupted; run the update again")
                )
            if not self._image(request.urn).exists(state):
                return pb.ReadResponse(id="")
            return pb.ReadResponse(id=request.id, properties=request.properties, inputs=request.inputs)

        return _answered(context, answer)

    def Delete(self, request: pb.DeleteRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        def answer() -> empty_pb2.Empty:
            self._image(request.urn).delete(_read(request.properties))
            return empty_pb2.Empty()

        return _answered(context, answer)

    def _image(self, urn: str) -> Image:
        def log(message: str) -> None:
            self._say(urn, message)

        def google() -> Google:
            return Google(self._environ, find_credentials(self._environ), self._wait, self._transport)

        return Image(
            builds=lambda: Builds(google(), log, self._wait),
            registry=lambda: Registry(lambda _: (_USER, google().token()), self._transport),
        )

    def _wait(self, seconds: float) -> None:
        self._pause(self._stopped, seconds)
        if self._stopped.is_set():
            raise CancelledError("the update was stopped")

    def _say(self, urn: str, message: str) -> None:
        if self._engine is not None:
            self._engine.show(inert(message), urn, engine_pb2.INFO)


def _read(struct: struct_pb2.Struct) -> Properties:
    return json_format.MessageToDict(struct)


def _written(properties: Properties) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(properties)
    return struct


def _answered(context: grpc.ServicerContext, answer: Callable[[], Answer]) -> Answer:
    """The answer, or the call's end with a sentence that the engine shows."""
    try:
        return answer()
    except BuildError as error:
        code = grpc.StatusCode.CANCELLED if isinstance(error, CancelledError) else grpc.StatusCode.UNKNOWN
        message = inert(str(error))
    except Exception as error:
        code, message = grpc.StatusCode.INTERNAL, f"{PACKAGE} failed ({type(error).__name__}: {inert(str(error))})"
    raise context.abort(code, message)  # which raises by itself
