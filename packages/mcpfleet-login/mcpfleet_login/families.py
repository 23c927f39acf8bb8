"""Logins: a record for each in the store, from the person's decision to the last refresh.

The record is a *family*: an authorization code, and the refresh tokens that descend from it one after the other. Each
step replaces the record exactly once, so a code or refresh token works once. One that comes again has been copied,
and ends the family (RFC 9700, sections 2.1.1 and 4.14.2).
"""

import dataclasses
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from mcpfleet_login.members import Account
from mcpfleet_login.sealing import Sealer, SealError
from mcpfleet_login.store import Store

logger = logging.getLogger(__name__)

CODE_SECONDS: Final = 60
FAMILY_SECONDS: Final = 30 * 24 * 3600
"""The longest life of a login. The bucket deletes records a little later."""

SHORT_FAMILY_SECONDS: Final = 8 * 3600
"""The life of a login whose issuer gave no refresh token, so that it can't be asked again."""


class EndedError(Exception):
    """The login has ended, or the code or token does not belong to it."""


@dataclass(frozen=True, slots=True)
class Family:
    """The record of a login.

    Attributes:
        id: Its ID, 128 random bits.
        account: The account that has logged in.
        client: The client's fingerprint.
        client_name: The client's name for logs: its ID if that is a URL, otherwise the name that it has given itself.
        redirect_uri: Where the code was sent.
        challenge: The client's PKCE challenge.
        created_at: Seconds since the epoch.
        count: The number of the valid refresh token; 0 if the code is still to be redeemed.
        is_ended: Whether the login has been revoked.
        issuer_token: The issuer's refresh token.
    """

    id: str
    account: Account
    client: str
    client_name: str
    redirect_uri: str
    challenge: str
    created_at: int
    count: int = 0
    is_ended: bool = False
    issuer_token: str | None = None

    @property
    def expires_at(self) -> int:
        """When the login ends at the latest, in seconds since the epoch."""
        return self.created_at + (FAMILY_SECONDS if self.issuer_token else SHORT_FAMILY_SECONDS)


@dataclass(frozen=True, slots=True)
class StoredFamily:
    """A record as it was read.

    Attributes:
        family: The record.
        generation: The generation of its object, which the next write must replace.
    """

    family: Family
    generation: int


class Families:
    """The records of all logins, and the codes and refresh tokens that name them."""

    def __init__(self, store: Store, sealer: Sealer, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._sealer = sealer
        self._clock = clock

    async def create(
        self, account: Account, client: str, client_name: str, redirect_uri: str, challenge: str, token: str | None
    ) -> str:
        """Record that a person has logged in; return the authorization code.

        Raises:
            StoreError: The store can't be reached.
        """
        family = Family(
            secrets.token_urlsafe(16),
            account,
            client,
            client_name,
            redirect_uri,
            challenge,
            int(self._clock()),
            issuer_token=token,
        )
        if not await self._store.create(_name(family.id), self._pack(family)):
            raise EndedError("the ID of the login exists already")  # of 128 random bits: the generator is broken
        return self._sealer.seal("code", {"family": family.id})

    async def load_code(self, code: str, client: str) -> StoredFamily:
        """Return the login whose code this is.

        Raises:
            EndedError: The code is not valid for this client, or has been redeemed.
            StoreError: The store can't be reached.
        """
        try:
            name = str(self._sealer.open("code", code, CODE_SECONDS)["family"])
        except (SealError, KeyError):
            raise EndedError("the code is not valid, or too old") from None
        stored = await self._load(name, client)
        if stored.family.count:
            await self._end_copied(stored, "authorization code")
        return stored

    async def load_refresh_token(self, token: str, client: str) -> StoredFamily:
        """Return the login whose refresh token this is.

        Raises:
            EndedError: The token is not valid for this client, or has been used.
            StoreError: The store can't be reached.
        """
        try:
            members = self._sealer.open("refresh", token, FAMILY_SECONDS)
            name, count = str(members["family"]), int(members["count"])
        except (SealError, KeyError, ValueError):
            raise EndedError("the refresh token is not valid") from None
        stored = await self._load(name, client)
        if count != stored.family.count:
            await self._end_copied(stored, "refresh token")
        return stored

    async def advance(self, stored: StoredFamily, account: Account, token: str | None) -> tuple[Family, str]:
        """Use the code or refresh token up; return the new record and the next refresh token.

        Raises:
            EndedError: It has been used in the meantime.
            StoreError: The store can't be reached.
        """
        family = dataclasses.replace(
            stored.family, count=stored.family.count + 1, account=account, issuer_token=token or None
        )
        if not await self._store.replace(_name(family.id), self._pack(family), stored.generation):
            current = await self._load(family.id, family.client)
            await self._end_copied(current, "code or refresh token")
        return family, self._sealer.seal("refresh", {"family": family.id, "count": family.count})

    async def end(self, stored: StoredFamily) -> None:
        """End a login: none of its tokens works any more, except an access token until its time is over.

        Raises:
            StoreError: The store can't be reached.
        """
        current = stored
        for _ in range(5):
            ended = dataclasses.replace(current.family, is_ended=True, issuer_token=None)
            if await self._store.replace(_name(ended.id), self._pack(ended), current.generation):
                return
            # Another request has changed it in between; its tokens must end, too.
            try:
                current = await self._load(ended.id, ended.client)
            except EndedError:
                return

    async def _end_copied(self, stored: StoredFamily, what: str) -> None:
        logger.warning(
            "A used %s of %s came again from client %s; the login has been ended",
            what,
            stored.family.account.name,
            stored.family.client_name,
        )
        await self.end(stored)
        raise EndedError(f"the {what} has been used")

    async def _load(self, family_id: str, client: str) -> StoredFamily:
        stored = await self._store.read(_name(family_id))
        if stored is None:
            raise EndedError("the login has ended")
        try:
            members = self._sealer.open("family", stored.data.decode("ascii", "replace"), None)
            family = _unpack(members)
        except (SealError, KeyError, TypeError):
            raise EndedError("the login can't be read with the current keys") from None
        if family.id != family_id or family.client != client:
            raise EndedError("the login belongs to another client")
        if family.is_ended or self._clock() >= family.expires_at:
            raise EndedError("the login has ended")
        return StoredFamily(family, stored.generation)

    def _pack(self, family: Family) -> bytes:
        members = dataclasses.asdict(family)
        members["account"]["groups"] = sorted(family.account.groups)
        return self._sealer.seal("family", members).encode()


def _unpack(members: dict[str, Any]) -> Family:
    account = dict(members["account"])
    account["groups"] = frozenset(account["groups"])
    changed: dict[str, Any] = {**members, "account": Account(**account)}
    return Family(**changed)


def _name(family_id: str) -> str:
    return f"families/{family_id}"
