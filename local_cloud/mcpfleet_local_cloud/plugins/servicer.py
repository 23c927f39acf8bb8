# ruff: noqa: D102, N802 - the methods are named by the protocol, and documented there (pulumi/proto/provider.proto)
"""The engine's gRPC protocol, for any table of resource types.

`Provider` translates: requests into calls of `Resource` methods, and their results, `ProviderError`s and
`PartialFailureError`s into answers. It keeps no state but the sessions.
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
from pulumi_mcpfleet.cloud_build.plugin import EngineLog, Plugin

_KEPT: Final = 256  # connections remembered; an engine opens one per provider
_SEVERITIES: Final = {
    "status": engine_pb2.INFO,
    "info": engine_pb2.INFO,
    "warning": engine_pb2.WARNING,
    "error": engine_pb2.ERROR,
}


class EngineSession:
    """One attached engine."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.config: Any = None
        self._engine: EngineLog | None = None

    def connect(self, engine_address: str) -> None:
        """Remember where the engine's log is."""
        self._engine = EngineLog(engine_address)

    def call(self, urn: str, timeout: float) -> Call:
        """The surroundings of one operation on the resource *urn*; *timeout* 0 means the usual 20 minutes."""

        def log(severity: str, message: str) -> None:
            if self._engine is not None:
                self._engine.show(message, urn, _SEVERITIES[severity], passing=severity == "status")

        return Call(cancelled=self.cancelled, timeout=timeout or 1200, log=log)


class Sessions:
    """Which engine is calling: its configuration and its Ctrl-C, apart from other engines'; the oldest are forgotten.

    The real engine starts a plugin process per provider; one process here serves them all. Every provider that an
    engine attaches opens its own connection, so the connection tells them apart.
    """

    def __init__(self) -> None:
        self._by_peer: OrderedDict[str, EngineSession] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, peer: str) -> EngineSession:
        """The session of the connection *peer*.

        A connection that gRPC opened anew in the middle of an update goes on with the configuration given last.
        """
        with self._lock:
            session = self._by_peer.get(peer)
            if session is None:
                session = EngineSession()
                if self._by_peer:
                    session.config = next(reversed(self._by_peer.values())).config
                self._by_peer[peer] = session
                while len(self._by_peer) > _KEPT:
                    self._by_peer.popitem(last=False)
            else:
                self._by_peer.move_to_end(peer)
            return session


Invoke = Callable[[Any, Call, Properties], Properties]
Response = TypeVar("Response")

_log = logging.getLogger(__name__)
_KINDS: Final = {
    ("add", False): pb.PropertyDiff.ADD,
    ("add", True): pb.PropertyDiff.ADD_REPLACE,
    ("delete", False): pb.PropertyDiff.DELETE,
    ("delete", True): pb.PropertyDiff.DELETE_REPLACE,
    ("update", False): pb.PropertyDiff.UPDATE,
    ("update", True): pb.PropertyDiff.UPDATE_REPLACE,
}


class Provider(Plugin):
    """A provider plugin; each subclass names its types and reads its configuration."""

    def __init__(self, resources: Sequence[Resource[Any]], invokes: Mapping[str, Invoke] | None = None) -> None:
        self._resources = {resource.type_name: resource for resource in resources}
        self._invokes = dict(invokes or {})
        super().__init__(self._resources, self._invokes)
        self._sessions = Sessions()

    @abstractmethod
    def check_configuration(self, name: str, news: Properties) -> list[CheckFailure]:
        """Every mistake in a provider's configuration."""

    def implied(self) -> dict[str, str]:
        """What the real provider's CheckConfig fills in where nothing is configured."""
        return {}

    @abstractmethod
    def configuration(self, news: Properties) -> Any:
        """What the resources get as their configuration.

        Raises:
            ProviderError: it cannot work.
        """

    # The plugin itself.

    def Handshake(
        self, request: pb.ProviderHandshakeRequest, context: grpc.ServicerContext
    ) -> pb.ProviderHandshakeResponse:
        session = self._sessions.of(context.peer())
        if request.engine_address:
            session.connect(request.engine_address)
        return pb.ProviderHandshakeResponse(supports_autonaming_configuration=True)

    def Attach(self, request: plugin_pb2.PluginAttach, context: grpc.ServicerContext) -> empty_pb2.Empty:
        self._sessions.of(context.peer()).connect(request.address)
        return empty_pb2.Empty()

    def Cancel(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> empty_pb2.Empty:
        self._sessions.of(context.peer()).cancelled.set()
        return empty_pb2.Empty()

    # Its configuration.

    def CheckConfig(self, request: pb.CheckRequest, context: grpc.ServicerContext) -> pb.CheckResponse:
        name = request.urn.rpartition("::")[2]
        failures = self.check_configuration(name, from_struct(request.news))
        for key, value in self.implied().items():
            if key not in request.news.fields:
                request.news.fields[key].string_value = value
        return _checked_struct(request.news, failures)

    def DiffConfig(self, request: pb.DiffRequest, context: grpc.ServicerContext) -> pb.DiffResponse:
        olds, news = (
            {**self.implied(), **{key: value for key, value in from_struct(one).items() if not _internal(key)}}
            for one in (request.olds, request.news)
        )
        changed = olds != news
        return pb.DiffResponse(changes=pb.DiffResponse.DIFF_SOME if changed else pb.DiffResponse.DIFF_NONE)

    def Configure(self, request: pb.ConfigureRequest, context: grpc.ServicerContext) -> pb.ConfigureResponse:
        def answer(session: EngineSession) -> pb.ConfigureResponse:
            session.cancelled.clear()
            session.config = self.configuration(from_struct(request.args))
            # Secrets are opened by the engine and marked again in our answers by the engine, at the same paths.
            return pb.ConfigureResponse(supportsPreview=True, supports_autonaming_configuration=True)

        return self._answer(context, answer)

    # Functions and resources.

    def Invoke(self, request: pb.InvokeRequest, context: grpc.ServicerContext) -> pb.InvokeResponse:
        def answer(session: EngineSession) -> pb.InvokeResponse:
            function = self._invokes.get(request.tok)
            if function is None:
                raise ProviderError(self._unknown("function", request.tok))
            response = pb.InvokeResponse()
            result = function(session.config, session.call("", 0), from_struct(request.args))
            getattr(response, "return").CopyFrom(to_struct(result))  # the field's name is a Python keyword
            return response

        return self._answer(context, answer)

    def Check(self, request: pb.CheckRequest, context: grpc.ServicerContext) -> pb.CheckResponse:
        def answer(session: EngineSession) -> pb.CheckResponse:
            naming = request.autonaming if request.HasField("autonaming") else None
            disabled = naming is not None and naming.mode == pb.CheckRequest.AutonamingOptions.DISABLE
            asked = CheckInput(
                name=request.name or request.urn.rpartition("::")[2],
                olds=from_struct(request.olds),
                news=from_struct(request.news),
                proposal=naming.proposed_name if naming is not None else "",
                autoname_disabled=disabled,
                seed=request.randomSeed,
            )
            inputs, failures = self._resource(request.urn).check(session.config, asked)
            return _checked(inputs, failures)

        return self._answer(context, answer)

    def Diff(self, request: pb.DiffRequest, context: grpc.ServicerContext) -> pb.DiffResponse:
        def answer(session: EngineSession) -> pb.DiffResponse:
            resource = self._resource(request.urn)
            found = resource.diff(session.config, from_struct(request.olds), from_struct(request.news))
            changes = {
                path: change
                for path, change in found.changes.items()
                if not any(_within(path, ignored) for ignored in request.ignoreChanges)
            }
            return _difference(changes, delete_before_replace=found.delete_before_replace)

        return self._answer(context, answer)

    def Create(self, request: pb.CreateRequest, context: grpc.ServicerContext) -> pb.CreateResponse:
        def answer(session: EngineSession) -> pb.CreateResponse:
            made = self._resource(request.urn).create(
                session.config,
                session.call(request.urn, request.timeout),
                request.name or request.urn.rpartition("::")[2],
                from_struct(request.properties),
                preview=request.preview,
            )
            return pb.CreateResponse(id=made.resource_id, properties=to_struct(made.properties))

        return self._answer(context, answer)

    def Read(self, request: pb.ReadRequest, context: grpc.ServicerContext) -> pb.ReadResponse:
        def answer(session: EngineSession) -> pb.ReadResponse:
            resource = self._resource(request.urn)
            call = session.call(request.urn, request.timeout)
            old_inputs = from_struct(request.inputs)
            # A resource whose creation was cut short has inputs in the state, but no outputs yet.
            known = from_struct(request.properties) or old_inputs
            found = resource.read(session.config, call, request.id, known)
            if found is None:
                return pb.ReadResponse(id="")
            inputs = resource.inputs(old_inputs, found.properties)
            return pb.ReadResponse(
                id=found.resource_id, properties=to_struct(found.properties), inputs=to_struct(inputs)
            )

        return self._answer(context, answer)

    def Update(self, request: pb.UpdateRequest, context: grpc.ServicerContext) -> pb.UpdateResponse:
        def answer(session: EngineSession) -> pb.UpdateResponse:
            properties = self._resource(request.urn).update(
                session.config,
                session.call(request.urn, request.timeout),
                request.id,
                from_struct(request.olds),
                from_struct(request.news),
                preview=request.preview,
            )
            return pb.UpdateResponse(properties=to_struct(properties))

        return self._answer(context, answer)

    def Delete(self, request: pb.DeleteRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        def answer(session: EngineSession) -> empty_pb2.Empty:
            call = session.call(request.urn, request.timeout)
            self._resource(request.urn).delete(session.config, call, request.id, from_struct(request.properties))
            return empty_pb2.Empty()

        return self._answer(context, answer)

    # How all of them answer.

    def _resource(self, urn: str) -> Resource[Any]:
        token = urn.split("::")[2].rpartition("$")[2]
        resource = self._resources.get(token)
        if resource is None:
            raise ProviderError(self._unknown("resource type", token))
        return resource

    def _unknown(self, what: str, token: str) -> str:
        known = ", ".join(sorted(self._resources if what == "resource type" else self._invokes)) or "none"
        return (
            f"the emulated {self.package} provider does not have the {what} {token} (it has: {known}). "
            f"The real provider may: install it (pulumi plugin install resource {self.package}) or take it out of "
            "this stack"
        )

    def _answer(self, context: grpc.ServicerContext, answer: Callable[[EngineSession], Response]) -> Response:
        """The answer, or the call's end with a sentence that the engine shows."""
        try:
            return answer(self._sessions.of(context.peer()))
        except PartialFailureError as error:
            message = str(error)
            context.set_trailing_metadata((("grpc-status-details-bin", _partial(error).SerializeToString()),))
        except ProviderError as error:
            message = str(error)
        except Exception as error:
            _log.exception("a bug in the emulated %s provider", self.package)
            message = f"the emulated {self.package} provider has a bug: {type(error).__name__}: {error}"
        return context.abort(grpc.StatusCode.UNKNOWN, message)


def _internal(key: str) -> bool:
    """Whether a provider's setting is its framework's own note: the emulated provider and the real one differ there."""
    return key == "version" or key.startswith("__")


def _partial(error: PartialFailureError) -> status_pb2.Status:
    detail = AnyMessage()
    detail.Pack(
        pb.ErrorResourceInitFailed(id=error.resource_id, properties=to_struct(error.properties), reasons=error.reasons)
    )
    return status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message=str(error), details=[detail])


def _checked(inputs: Properties, failures: Sequence[CheckFailure]) -> pb.CheckResponse:
    return _checked_struct(to_struct(inputs), failures)


def _checked_struct(inputs: Any, failures: Sequence[CheckFailure]) -> pb.CheckResponse:
    return pb.CheckResponse(
        inputs=inputs,
        failures=[pb.CheckFailure(property=failure.path, reason=failure.reason) for failure in failures],
    )


def _within(path: str, ignored: str) -> bool:
    return path == ignored or path.startswith((f"{ignored}.", f"{ignored}["))


def _difference(changes: Mapping[str, Change], *, delete_before_replace: bool) -> pb.DiffResponse:
    replaces = sorted({_top(path) for path, change in changes.items() if change.replace})
    return pb.DiffResponse(
        changes=pb.DiffResponse.DIFF_SOME if changes else pb.DiffResponse.DIFF_NONE,
        diffs=sorted({_top(path) for path in changes}),
        replaces=replaces,
        deleteBeforeReplace=bool(replaces) and delete_before_replace,
        detailedDiff={
            path: pb.PropertyDiff(kind=_KINDS[change.kind, change.replace]) for path, change in changes.items()
        },
        hasDetailedDiff=True,
    )


def _top(path: str) -> str:
    return path.partition(".")[0].partition("[")[0]
