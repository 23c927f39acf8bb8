"""The interface of a resource type of an emulated provider."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from mcpfleet_local_cloud.plugins.bodies import inputs_from_state, refresh_inputs
from mcpfleet_local_cloud.plugins.call import Call, CheckFailure
from mcpfleet_local_cloud.plugins.checking import DEFAULTS, Checker, generate_name
from mcpfleet_local_cloud.plugins.diffing import Changes, diff
from mcpfleet_local_cloud.plugins.properties import Field
from mcpfleet_local_cloud.plugins.values import Properties

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class CheckInput:
    """The request of a Check call."""

    name: str
    olds: Properties
    news: Properties
    proposal: str = ""
    autoname_disabled: bool = False
    seed: bytes = b""


@dataclass(frozen=True)
class ResourceState:
    """A resource's id and properties."""

    resource_id: str
    properties: Properties


@dataclass(frozen=True)
class ResourceDiff:
    """The result of a diff: the changes, and whether a replacement deletes the old resource first."""

    changes: Changes = field(default_factory=dict[str, Any])
    delete_before_replace: bool = False


class Resource(ABC, Generic[Config]):
    """One resource type; *Config* is the type of the provider's configuration."""

    type_name: ClassVar[str]
    fields: ClassVar[Sequence[Field]]
    package: ClassVar[str] = "gcp"

    def check(self, config: Config, request: CheckInput) -> tuple[Properties, list[CheckFailure]]:
        """The inputs with their defaults, and all mistakes in them."""
        checker = Checker(request.name, self.package)
        news = dict(request.news)
        for name_field in self.fields:
            if name_field.autoname and news.get(name_field.name) is None:
                generated = generate_name(
                    name_field,
                    name=request.name,
                    olds=request.olds,
                    proposal=request.proposal,
                    disabled=request.autoname_disabled,
                    seed=request.seed,
                )
                if generated is None:
                    checker.failures.append(CheckFailure(f"Missing required property '{name_field.name}'"))
                else:
                    news |= {name_field.name: generated, DEFAULTS: [name_field.name]}
        checked = checker.check(self.fields, news)
        if DEFAULTS in news:
            checked[DEFAULTS] = news[DEFAULTS]
        self.check_rules(config, checked, checker)
        return checked, checker.failures

    def check_rules(self, config: Config, inputs: Properties, checker: Checker) -> None:
        """Check rules that the property table can't express."""

    def diff(self, config: Config, olds: Properties, news: Properties) -> ResourceDiff:
        """The changes from the state *olds* to the inputs *news*."""
        changes = diff(self.fields, olds, self.complete_inputs(config, news))
        replaced = any(change.replace for change in changes.values())
        return ResourceDiff(changes, replaced and self._has_explicit_name(news))

    def complete_inputs(self, config: Config, news: Properties) -> Properties:
        """The inputs with the values that the provider's configuration adds."""
        return news

    def _has_explicit_name(self, news: Mapping[str, Any]) -> bool:
        """Whether the program sets the resource's name; a replacement then deletes the old resource first.

        The rule is nameRequiresDeleteBeforeReplace in pkg/tfbridge/schema.go of pulumi-terraform-bridge (3.137). It
        applies to a changed name too.
        """
        generated = news.get(DEFAULTS, [])
        return any(
            candidate.autoname and candidate.name in news and candidate.name not in generated
            for candidate in self.fields
        )

    @abstractmethod
    def create(self, config: Config, call: Call, name: str, news: Properties, *, preview: bool) -> ResourceState:
        """Create the resource; a preview only returns the planned state.

        Raises:
            ProviderError: nothing was created.
            PartialFailureError: the resource was created, but is not in the requested state.
        """

    @abstractmethod
    def read(self, config: Config, call: Call, resource_id: str, state: Properties) -> ResourceState | None:
        """The resource's current state; None if it doesn't exist.

        On import, *state* is empty and the id has any accepted format; after an interrupted creation, *state* has only
        the inputs.
        """

    @abstractmethod
    def update(
        self, config: Config, call: Call, resource_id: str, olds: Properties, news: Properties, *, preview: bool
    ) -> Properties:
        """Change the resource in place."""

    @abstractmethod
    def delete(self, config: Config, call: Call, resource_id: str, olds: Properties) -> None:
        """Delete the resource; it is no error if it doesn't exist."""

    def read_inputs(self, old_inputs: Properties, state: Properties) -> Properties:
        """The inputs after a refresh, or for an import if *old_inputs* is empty."""
        if old_inputs:
            return refresh_inputs(self.fields, old_inputs, state)
        return inputs_from_state(self.fields, state)
