"""The components, as the engine has them constructed for programs in any language."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final, cast

import pulumi
from pulumi.errors import InputPropertiesError

from pulumi_mcpfleet import Fleet, McpServer, tokens
from pulumi_mcpfleet.provider import schema, translate

_COMPONENTS: Final = {tokens.FLEET: "Fleet", tokens.MCP_SERVER: "McpServer"}


@dataclass(frozen=True)
class Constructed:
    """A component, as `pulumi.provider.ConstructResult` has it."""

    urn: pulumi.Output[str]
    state: Mapping[str, Any]


class Components:
    """A `pulumi.provider.Provider` that creates a component for each resource of the package.

    It is none by its base class: `pulumi.provider` has a second copy of the message `google.rpc.Status`, which protobuf
    refuses in a process that has Google's. So only the program that serves it imports that package.
    """

    def __init__(self) -> None:
        self.version = version("pulumi-mcpfleet")
        self.schema = json.dumps(schema.package())

    def construct(
        self,
        name: str,
        resource_type: str,
        inputs: Mapping[str, Any],
        options: pulumi.ResourceOptions | None = None,
    ) -> Constructed:
        """Create the component *name*.

        Raises:
            InputPropertiesError: There is no such component, or its inputs have mistakes; each has its property.
        """
        component = _COMPONENTS.get(resource_type)
        if component is None:
            raise InputPropertiesError(f"unknown resource type {resource_type!r}; available: {', '.join(_COMPONENTS)}")
        args = translate.to_arguments(component, inputs)
        try:
            if component == "Fleet":
                fleet = Fleet(name, cast("Any", args), options)
                return _result(component, fleet, {"servers": fleet.servers, "clients": fleet.clients})
            server = McpServer(name, cast("Any", args), options)
            return _result(component, server, server.outputs)
        except pulumi.RunError as error:
            mistakes = [translate.to_mistake(component, name, line) for line in str(error).splitlines()]
            raise InputPropertiesError(
                f"{component} {name} has mistakes",
                [{"property_path": path, "reason": reason} for path, reason in mistakes],
            ) from None

    def cancel(self) -> None:
        """Do nothing: what is under way is the engine's to cancel, resource by resource."""


def _result(component: str, resource: pulumi.ComponentResource, values: Mapping[str, Any]) -> Constructed:
    return Constructed(urn=resource.urn, state=translate.to_outputs(component, values))
