"""What a resource type of an emulated provider must be able to do."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from mcpfleet_local_cloud.plugins.bodies import inputs_from_state, refreshed_inputs
from mcpfleet_local_cloud.plugins.call import Call, CheckFailure
from mcpfleet_local_cloud.plugins.checking import DEFAULTS, Checker, autoname
from mcpfleet_local_cloud.plugins.diffing import Changes, diff
from mcpfleet_local_cloud.plugins.properties import Field
from mcpfleet_local_cloud.plugins.values import Properties

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class CheckInput:
    """What the engine asks Check about."""

    name: str
    olds: Properties
    news: Properties
    proposal: str = ""
    autoname_disabled: bool = False
    seed: bytes = b""


@dataclass(frozen=True)
class Found:
    """A resource: its id and its state."""

    resource_id: str
    properties: Properties


@dataclass(frozen=True)
class Difference:
    """The engine's question answered: what changes, and in which order a replacement goes."""

    changes: Changes = field(default_factory=dict[str, Any])
    delete_before_replace: bool = False


class Resource(ABC, Generic[Config]):
    """One resource type; *Config* is what the provider was configured with."""

    type_name: ClassVar[str]
    fields: ClassVar[Sequence[Field]]
    package: ClassVar[str] = "gcp"

    def check(self, config: Config, asked: CheckInput) -> tuple[Properties, list[CheckFailure]]:
        """The inputs with their defaults, and every mistake in them."""
        checker = Checker(asked.name, self.package)
        news = dict(asked.news)
        for naming in self.fields:
            if naming.autoname and news.get(naming.name) is None:
                made_up = autoname(
                    naming,
                    name=asked.name,
                    olds=asked.olds,
                    proposal=asked.proposal,
                    disabled=asked.autoname_disabled,
                    seed=asked.seed,
                )
                if made_up is None:
                    checker.failures.append(CheckFailure(f"Missing required property '{naming.name}'"))
                else:
                    news |= {naming.name: made_up, DEFAULTS: [naming.name]}
        checked = checker.check(self.fields, news)
        if DEFAULTS in news:
            checked[DEFAULTS] = news[DEFAULTS]
        self.check_more(config, checked, checker)
        return checked, checker.failures

    def check_more(self, config: Config, inputs: Properties, checker: Checker) -> None:
        """Rules that a table cannot say."""

    def diff(self, config: Config, olds: Properties, news: Properties) -> Difference:
        """What an update from the state *olds* to the inputs *news* changes."""
        changes = diff(self.fields, olds, self.complete(config, news))
        replaced = any(change.replace for change in changes.values())
        return Difference(changes, replaced and self._named_by_program(news))

    def complete(self, config: Config, news: Properties) -> Properties:
        """The inputs with what the provider's configuration adds to them."""
        return news

    def _named_by_program(self, news: Mapping[str, Any]) -> bool:
        """Whether a replacement deletes first: it does wherever the program gives the name, another name too.

        So decides nameRequiresDeleteBeforeReplace in pkg/tfbridge/schema.go of pulumi-terraform-bridge (3.137).
        """
        made_up = news.get(DEFAULTS, [])
        return any(one.autoname and one.name in news and one.name not in made_up for one in self.fields)

    @abstractmethod
    def create(self, config: Config, call: Call, name: str, news: Properties, *, preview: bool) -> Found:
        """Make it; a preview only says what it would be.

        Raises:
            ProviderError: nothing was made.
            PartialFailureError: it was made but is not well.
        """

    @abstractmethod
    def read(self, config: Config, call: Call, resource_id: str, state: Properties) -> Found | None:
        """It as it is now; None when it is gone.

        On import *state* is empty and the id has any accepted form; after a creation that was cut short, *state* has
        the inputs alone.
        """

    @abstractmethod
    def update(
        self, config: Config, call: Call, resource_id: str, olds: Properties, news: Properties, *, preview: bool
    ) -> Properties:
        """Change it in place."""

    @abstractmethod
    def delete(self, config: Config, call: Call, resource_id: str, olds: Properties) -> None:
        """Remove it; one that is gone already is no error."""

    def inputs(self, old_inputs: Properties, state: Properties) -> Properties:
        """The inputs after a refresh (*old_inputs* given) or for an import."""
        if old_inputs:
            return refreshed_inputs(self.fields, old_inputs, state)
        return inputs_from_state(self.fields, state)
