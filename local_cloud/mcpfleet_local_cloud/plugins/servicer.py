# ruff: noqa: D102, N802 - the methods are named by the protocol, and documented there (pulumi/proto/provider.proto)
"""The engine's gRPC protocol, for any table of resource types.

`Provider` translates requests into calls of `Resource` methods, and their results, `ProviderError`s and
`PartialFailureError`s into responses. The sessions are its only state.
"""

import logging
import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import grpc
from google.protobuf import empty_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import status_pb2
from pulumi.runtime.proto import engine_pb2, plugin_pb2
from pulumi.runtime.proto import provider_pb2 as pb

from mcpfleet_local_cloud.plugins.call import Call, CheckFailure, PartialFailureError, ProviderError
from mcpfleet_local_cloud.plugins.diffing import Change
from mcpfleet_local_cloud.plugins.resources import CheckInput, Resource
from mcpfleet_local_cloud.plugins.values import Properties, from_struct, to_struct
from pulumi_mcpfleet.cloud_build.plugin import Plugin, PulumiEngineLog

_MAX_SESSIONS: Final = 256  # an engine opens one connection per provider
_SEVERITIES: Final = {
    "status": engine_pb2.INFO,
    "info": engine_pb2.INFO,
    "warning": engine_pb2.WARNING,
    "error": engine_pb2.ERROR,
}


class EngineSession:
    """The state of one attached engine: its configuration, its cancellation and its log."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.config: Any = None
        self._engine: PulumiEngineLog | None = None

    def connect(self, engine_address: str) -> None:
        """Remember the address of the engine, which receives the log."""
        self._engine = PulumiEngineLog(engine_address)

    def start_call(self, urn: str, timeout: float) -> Call:
        """The context of one operation on the resource *urn*; a *timeout* of 0 means 20 minutes; it is in seconds."""

        def log(severity: str, message: str) -> None:
            if self._engine is not None:
                self._engine.show(message, urn, _SEVERITIES[severity], ephemeral=severity == "status")

        return Call(cancelled=self.cancelled, timeout=timeout or 1200, log=log)


class Sessions:
    """The sessions of all engines, by connection; the least recently used are dropped.

    The real engine starts a plugin process per provider; one process here serves them all. Every provider that an
    engine attaches opens its own connection, so the connection tells them apart.
    """

    def __init__(self) -> None:
        self._by_peer: OrderedDict[str, EngineSession] = OrderedDict()
        self._lock = threading.Lock()

    def find_or_create(self, peer: str) -> EngineSession:
        """The session of the connection *peer*; a new session if there is none.

        A connection that gRPC reopens in the middle of an update gets the configuration that was set last.
        """
        with self._lock:
            session = self._by_peer.get(peer)
            if session is None:
                session = EngineSession()
                if self._by_peer:
                    session.config = next(reversed(self._by_peer.values())).config
                self._by_peer[peer] = session
                while len(self._by_peer) > _MAX_SESSIONS:
                    self._by_peer.popitem(last=False)
            else:
                self._by_peer.move_to_end(peer)
            return session


Invoke = Callable[[Any, Call, Properties], Properties]
Response = TypeVar("Response")

_log = logging.getLogger(__name__)
_DIFF_KINDS: Final = {
    ("add", False): pb.PropertyDiff.ADD,
    ("add", True): pb.PropertyDiff.ADD_REPLACE,
    ("delete", False): pb.PropertyDiff.DELETE,
    ("delete", True): pb.PropertyDiff.DELETE_REPLACE,
    ("update", False): pb.PropertyDiff.UPDATE,
    ("update", True): pb.PropertyDiff.UPDATE_REPLACE,
}


class Provider(Plugin):
    """A provider plugin; each subclass has its resource types and reads its configuration."""

    def __init__(self, resources: Sequence[Resource[Any]], invokes: Mapping[str, Invoke] | None = None) -> None:
        self._resources = {resource.type_name: resource for resource in resources}
        self._invokes = dict(invokes or {})
        super().__init__(self._resources, self._invokes)
        self._sessions = Sessions()

    @abstractmethod
    def check_configuration(self, name: str, news: Properties) -> list[CheckFailure]:
        """All mistakes in the provider's configuration."""

    def default_configuration(self) -> dict[str, str]:
        """The settings that the real provider's CheckConfig fills in by default."""
        return {}

    @abstractmethod
    def read_configuration(self, news: Properties) -> Any:
        """The configuration that the resources get.

        Raises:
            ProviderError: the provider can't work with it.
        """

    # Plugin.

    def Handshake(
        self, request: pb.ProviderHandshakeRequest, context: grpc.ServicerContext
    ) -> pb.ProviderHandshakeResponse:
        session = self._sessions.find_or_create(context.peer())
        if request.engine_address:
            session.connect(request.engine_address)
        return pb.ProviderHandshakeResponse(supports_autonaming_configuration=True)

    def Attach(self, request: plugin_pb2.PluginAttach, context: grpc.ServicerContext) -> empty_pb2.Empty:
        self._sessions.find_or_create(context.peer()).connect(request.address)
        return empty_pb2.Empty()

    def Cancel(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> empty_pb2.Empty:
        self._sessions.find_or_create(context.peer()).cancelled.set()
        return empty_pb2.Empty()

    # Configuration.

    def CheckConfig(self, request: pb.CheckRequest, context: grpc.ServicerContext) -> pb.CheckResponse:
        name = request.urn.rpartition("::")[2]
        failures = self.check_configuration(name, from_struct(request.news))
        for key, value in self.default_configuration().items():
            if key not in request.news.fields:
                request.news.fields[key].string_value = value
        return _check_response_from_struct(request.news, failures)

    def DiffConfig(self, request: pb.DiffRequest, context: grpc.ServicerContext) -> pb.DiffResponse:
        olds, news = (
            {
                **self.default_configuration(),
                **{key: value for key, value in from_struct(bag).items() if not _is_internal(key)},
            }
            for bag in (request.olds, request.news)
        )
        changed = olds != news
        return pb.DiffResponse(changes=pb.DiffResponse.DIFF_SOME if changed else pb.DiffResponse.DIFF_NONE)

    def Configure(self, request: pb.ConfigureRequest, context: grpc.ServicerContext) -> pb.ConfigureResponse:
        def handle(session: EngineSession) -> pb.ConfigureResponse:
            session.cancelled.clear()
            session.config = self.read_configuration(from_struct(request.args))
            # The engine sends secrets as plain values, and marks them as secret in our responses, at the same paths.
            return pb.ConfigureResponse(supportsPreview=True, supports_autonaming_configuration=True)

        return self._respond(context, handle)

    # Functions and resources.

    def Invoke(self, request: pb.InvokeRequest, context: grpc.ServicerContext) -> pb.InvokeResponse:
        def handle(session: EngineSession) -> pb.InvokeResponse:
            function = self._invokes.get(request.tok)
            if function is None:
                raise ProviderError(self._unknown_token_message("function", request.tok))
            response = pb.InvokeResponse()
            result = function(session.config, session.start_call("", 0), from_struct(request.args))
            getattr(response, "return").CopyFrom(to_struct(result))  # the field's name is a Python keyword
            return response

        return self._respond(context, handle)

    def Check(self, request: pb.CheckRequest, context: grpc.ServicerContext) -> pb.CheckResponse:
        def handle(session: EngineSession) -> pb.CheckResponse:
            naming = request.autonaming if request.HasField("autonaming") else None
            disabled = naming is not None and naming.mode == pb.CheckRequest.AutonamingOptions.DISABLE
            check_input = CheckInput(
                name=request.name or request.urn.rpartition("::")[2],
                olds=from_struct(request.olds),
                news=from_struct(request.news),
                proposal=naming.proposed_name if naming is not None else "",
                autoname_disabled=disabled,
                seed=request.randomSeed,
            )
            inputs, failures = self._find_resource(request.urn).check(session.config, check_input)
            return _check_response(inputs, failures)

        return self._respond(context, handle)

    def Diff(self, request: pb.DiffRequest, context: grpc.ServicerContext) -> pb.DiffResponse:
        def handle(session: EngineSession) -> pb.DiffResponse:
            resource = self._find_resource(request.urn)
            difference = resource.diff(session.config, from_struct(request.olds), from_struct(request.news))
            changes = {
                path: change
                for path, change in difference.changes.items()
                if not any(_is_within(path, ignored) for ignored in request.ignoreChanges)
            }
            return _diff_response(changes, delete_before_replace=difference.delete_before_replace)

        return self._respond(context, handle)

    def Create(self, request: pb.CreateRequest, context: grpc.ServicerContext) -> pb.CreateResponse:
        def handle(session: EngineSession) -> pb.CreateResponse:
            created = self._find_resource(request.urn).create(
                session.config,
                session.start_call(request.urn, request.timeout),
                request.name or request.urn.rpartition("::")[2],
                from_struct(request.properties),
                preview=request.preview,
            )
            return pb.CreateResponse(id=created.resource_id, properties=to_struct(created.properties))

        return self._respond(context, handle)

    def Read(self, request: pb.ReadRequest, context: grpc.ServicerContext) -> pb.ReadResponse:
        def handle(session: EngineSession) -> pb.ReadResponse:
            resource = self._find_resource(request.urn)
            call = session.start_call(request.urn, request.timeout)
            old_inputs = from_struct(request.inputs)
            # A resource whose creation was interrupted has only inputs in its state.
            state = from_struct(request.properties) or old_inputs
            current = resource.read(session.config, call, request.id, state)
            if current is None:
                return pb.ReadResponse(id="")
            inputs = resource.read_inputs(old_inputs, current.properties)
            return pb.ReadResponse(
                id=current.resource_id, properties=to_struct(current.properties), inputs=to_struct(inputs)
            )

        return self._respond(context, handle)

    def Update(self, request: pb.UpdateRequest, context: grpc.ServicerContext) -> pb.UpdateResponse:
        def handle(session: EngineSession) -> pb.UpdateResponse:
            properties = self._find_resource(request.urn).update(
                session.config,
                session.start_call(request.urn, request.timeout),
                request.id,
                from_struct(request.olds),
                from_struct(request.news),
                preview=request.preview,
            )
            return pb.UpdateResponse(properties=to_struct(properties))

        return self._respond(context, handle)

    def Delete(self, request: pb.DeleteRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        def handle(session: EngineSession) -> empty_pb2.Empty:
            call = session.start_call(request.urn, request.timeout)
            self._find_resource(request.urn).delete(session.config, call, request.id, from_struct(request.properties))
            return empty_pb2.Empty()

        return self._respond(context, handle)

    # Shared by all methods.

    def _find_resource(self, urn: str) -> Resource[Any]:
        token = urn.split("::")[2].rpartition("$")[2]
        resource = self._resources.get(token)
        if resource is None:
            raise ProviderError(self._unknown_token_message("resource type", token))
        return resource

    def _unknown_token_message(self, kind: str, token: str) -> str:
        supported = ", ".join(sorted(self._resources if kind == "resource type" else self._invokes)) or "none"
        return (
            f"the emulated {self.package} provider does not have the {kind} {token} (it has: {supported}). "
            f"The real provider may have it. Next: install that (pulumi plugin install resource {self.package}), or "
            f"remove the {kind} from this stack"
        )

    def _respond(self, context: grpc.ServicerContext, handle: Callable[[EngineSession], Response]) -> Response:
        """The response of *handle*; its errors end the RPC with a sentence that the engine shows."""
        try:
            return handle(self._sessions.find_or_create(context.peer()))
        except PartialFailureError as error:
            message = str(error)
            context.set_trailing_metadata(
                (("grpc-status-details-bin", _partial_failure_status(error).SerializeToString()),)
            )
        except ProviderError as error:
            message = str(error)
        except Exception as error:
            _log.exception("a bug in the emulated %s provider", self.package)
            message = f"the emulated {self.package} provider has a bug: {type(error).__name__}: {error}"
        return context.abort(grpc.StatusCode.UNKNOWN, message)


def _is_internal(key: str) -> bool:
    """Whether a setting is internal to a provider's framework, where the real and the emulated provider differ."""
    return key == "version" or key.startswith("__")


def _partial_failure_status(error: PartialFailureError) -> status_pb2.Status:
    detail = AnyMessage()
    detail.Pack(
        pb.ErrorResourceInitFailed(id=error.resource_id, properties=to_struct(error.properties), reasons=error.reasons)
    )
    return status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message=str(error), details=[detail])


def _check_response(inputs: Properties, failures: Sequence[CheckFailure]) -> pb.CheckResponse:
    return _check_response_from_struct(to_struct(inputs), failures)


def _check_response_from_struct(inputs: Any, failures: Sequence[CheckFailure]) -> pb.CheckResponse:
    return pb.CheckResponse(
        inputs=inputs,
        failures=[pb.CheckFailure(property=failure.path, reason=failure.reason) for failure in failures],
    )


def _is_within(path: str, ignored: str) -> bool:
    return path == ignored or path.startswith((f"{ignored}.", f"{ignored}["))


def _diff_response(changes: Mapping[str, Change], *, delete_before_replace: bool) -> pb.DiffResponse:
    replaces = sorted({_top_property(path) for path, change in changes.items() if change.replace})
    return pb.DiffResponse(
        changes=pb.DiffResponse.DIFF_SOME if changes else pb.DiffResponse.DIFF_NONE,
        diffs=sorted({_top_property(path) for path in changes}),
        replaces=replaces,
        deleteBeforeReplace=bool(replaces) and delete_before_replace,
        detailedDiff={
            path: pb.PropertyDiff(kind=_DIFF_KINDS[change.kind, change.replace]) for path, change in changes.items()
        },
        hasDetailedDiff=True,
    )


def _top_property(path: str) -> str:
    return path.partition(".")[0].partition("[")[0]
