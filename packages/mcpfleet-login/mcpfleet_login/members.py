"""Who may use the server: entries `user:EMAIL`, `domain:DOMAIN` and `group:NAME`. Without entries, nobody may."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

GOOGLE: Final = "https://accounts.google.com"

_ENTRY: Final = re.compile(r"(?P<kind>user|domain|group):(?P<name>[^\s,]{1,254})")


@dataclass(frozen=True, slots=True)
class Account:
    """A person's account at an issuer, as an ID token has it.

    Attributes:
        issuer: The issuer's URL.
        subject: The issuer's permanent ID of the account.
        email: The address, if the issuer has verified it.
        hosted_domain: The domain of a Google Workspace account (`hd`).
        groups: The names or IDs in the claim `groups`.
    """

    issuer: str
    subject: str
    email: str | None = None
    hosted_domain: str | None = None
    groups: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The account's name for people."""
        return self.email or self.subject

    @property
    def domain(self) -> str | None:
        """The organization's domain.

        Of a Google account it is `hd`. The address alone proves nothing there: anybody can have a Google account with
        an address at another provider (developers.google.com/identity/openid-connect/openid-connect, "hd").
        """
        if self.issuer == GOOGLE:
            return self.hosted_domain
        return self.email.rpartition("@")[2] if self.email else None


@dataclass(frozen=True, slots=True)
class Members:
    """The entries, in lower case except for groups."""

    users: frozenset[str]
    domains: frozenset[str]
    groups: frozenset[str]

    @classmethod
    def parse(cls, entries: Iterable[str]) -> "Members":
        """Read entries.

        Raises:
            ValueError: One has another form.
        """
        names: dict[str, set[str]] = {"user": set(), "domain": set(), "group": set()}
        for entry in entries:
            match = _ENTRY.fullmatch(entry)
            if match is None:
                raise ValueError(f"{entry!r} is not a member; write user:EMAIL, domain:DOMAIN or group:NAME")
            names[match["kind"]].add(match["name"] if match["kind"] == "group" else match["name"].lower())
        return cls(frozenset(names["user"]), frozenset(names["domain"]), frozenset(names["group"]))

    def allow(self, account: Account) -> bool:
        """Return whether an account may use the server."""
        email, domain = (account.email or "").lower(), (account.domain or "").lower()
        return email in self.users or domain in self.domains or not self.groups.isdisjoint(account.groups)
