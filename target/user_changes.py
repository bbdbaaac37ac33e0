"""Changes of the catalog's CHAP users (``catalog_part.py``), and of who nodes are to initiators.

Whose user is gone is logged out.  Who has logged in stays when a secret is another.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

import msgspec

from target.catalog_part import CatalogPart
from target.chap_users import (
    CATALOG,
    CONFIGURATION,
    USERS_MAX,
    Mutual,
    UserInfo,
    UserRecord,
    Users,
    UserSecret,
    policy_of,
)
from target.datadir import DataDir
from target.iscsi.chap import ChapPolicy, Secret
from target.iscsi.target import IscsiTarget
from target.logs import Log
from target.shared_catalog import SharedCatalog
from target.volume_errors import VolumeError, VolumeFault


class UserChanges(CatalogPart[UserRecord]):
    """The users that ``target`` asks for: ``configured`` ones, and those of the catalog."""

    name = "users"
    title = "CHAP users"
    unit = "users"

    def __init__(
        self,
        data: DataDir,
        target: IscsiTarget,
        configured: ChapPolicy | None,
        shared: SharedCatalog | None,
        log: Log,
    ) -> None:
        super().__init__(data, shared, log)
        self._target = target
        self._configured = configured
        self._in_force = {user.name: user.id for user in self.kept}
        if self.kept or self._kept_mutual:
            target.set_chap(self._policy(self.kept), lambda: None)

    @property
    def names(self) -> list[str]:
        """Those of the catalog, as they are in force here."""
        return sorted(user.name for user in self.kept)

    @property
    def configured(self) -> list[str]:
        """Those that this node is configured with."""
        return sorted(self._configured.users) if self._configured is not None else []

    @property
    def secrets(self) -> list[str]:
        """Those of the catalog, for whoever strikes them out of what is shown."""
        return [it.secret for it in (*self.kept, *self._kept_mutual)]

    @property
    def mutual(self) -> UserInfo | None:
        """Who this node is to an initiator that asks, once there are users."""
        if self._configured is not None and self._configured.mutual is not None:
            return UserInfo(name=self._configured.mutual[0], source=CONFIGURATION)
        return next((UserInfo(name=it.name, source=CATALOG) for it in self._kept_mutual), None)

    @property
    def _kept_mutual(self) -> Mutual:
        return self._data.part("mutual")

    def _policy(self, users: Users) -> ChapPolicy | None:
        return policy_of(self._configured, users, self._kept_mutual, self._log)

    async def create(self, asked: UserSecret) -> UserInfo:
        """Add a user.  Raises ValueError, VolumeError, OSError or NotEverywhere."""
        self._check(asked)
        known = self._shared is None or self._shared.at_format_2
        name = uuid.uuid4().hex if known else ""
        user = UserRecord(name=asked.name, secret=asked.secret, id=name)

        def edit(users: Users) -> Users:
            if any(other.name == user.name for other in users):
                raise VolumeError(
                    VolumeFault.CONFLICT,
                    f"there is a user {user.name!r} already: see lunmesh user change",
                )
            if len(users) >= USERS_MAX:
                raise VolumeError(VolumeFault.CONFLICT, f"there are {USERS_MAX} users already")
            return (*users, user)

        await self.change(edit)
        return UserInfo(name=user.name, source=CATALOG)

    async def set_secret(self, asked: UserSecret) -> UserInfo:
        """Give a user another secret.  Raises ValueError, VolumeError, OSError or NotEverywhere."""
        self._check(asked)

        def edit(users: Users) -> Users:
            if all(other.name != asked.name for other in users):
                raise _no_user(asked.name)
            return tuple(
                msgspec.structs.replace(it, secret=asked.secret) if it.name == asked.name else it
                for it in users
            )

        await self.change(edit)
        return UserInfo(name=asked.name, source=CATALOG)

    def _check(self, asked: UserSecret) -> None:
        """Raises ValueError or VolumeError."""
        asked.checked()
        if asked.name in self.configured:
            raise VolumeError(VolumeFault.CONFLICT, f"user {asked.name!r} is configured here")
        mutual = [Secret(it.secret) for it in self._kept_mutual]
        if self._configured is not None and self._configured.mutual is not None:
            mutual.append(self._configured.mutual[1])
        if Secret(asked.secret) in mutual:
            raise ValueError("the secret must differ from the one of mutual CHAP")

    async def delete(self, name: str, *, everybody: bool = False) -> None:
        """Remove a user; the last one only if ``everybody`` may log in from then on.

        Raises VolumeError, OSError or NotEverywhere.
        """

        def edit(users: Users) -> Users:
            others = tuple(other for other in users if other.name != name)
            if len(others) == len(users):
                raise _no_user(name)
            if not others and self._configured is None and not everybody:
                raise VolumeError(
                    VolumeFault.CONFLICT,
                    "that is the last user: without it no CHAP is asked for, if you say so"
                    " (--everybody)",
                )
            return others

        await self.change(edit)

    def apply(self, users: Users, done: Callable[[], None]) -> None:
        """Ask for them, and for those that are configured."""
        before, self._in_force = self._in_force, {user.name: user.id for user in users}
        made_anew = {
            user.name
            for user in users
            if before.get(user.name, user.id) != user.id and user.name not in self.configured
        }
        self._target.set_chap(self._policy(users), done, made_anew)

    def follow_mutual(self, done: Callable[[], None]) -> None:
        """It is another one."""
        self._target.set_chap(self._policy(self.kept), done)

    def check_mutual(self, asked: UserSecret) -> None:
        """Raises ValueError or VolumeError if nodes cannot be that to initiators."""
        asked.checked()
        configured = self._configured
        if configured is not None and configured.mutual is not None:
            raise VolumeError(VolumeFault.CONFLICT, "mutual CHAP is configured here")
        if configured is None and not self.kept:
            raise VolumeError(
                VolumeFault.CONFLICT, "no CHAP user: an initiator has to prove itself first"
            )
        secret = Secret(asked.secret)
        known = [Secret(user.secret) for user in self.kept]
        if configured is not None:
            known += configured.users.values()
        if secret in known:
            raise ValueError("the secret must differ from those of the CHAP users")


class MutualChanges(CatalogPart[UserSecret]):
    """Mutual CHAP: who all nodes are to an initiator that asks, unless they are configured."""

    name = "mutual"
    title = "mutual CHAP"
    unit = "names"

    def __init__(
        self, data: DataDir, users: UserChanges, shared: SharedCatalog | None, log: Log
    ) -> None:
        super().__init__(data, shared, log)
        self._users = users

    async def put(self, asked: UserSecret) -> UserInfo:
        """Be that from now on.  Raises ValueError, VolumeError, OSError or NotEverywhere."""
        if self._shared is not None and not self._shared.at_format_2:
            raise VolumeError(
                VolumeFault.CONFLICT,
                "a node did not know of mutual CHAP in the catalog when this one joined: update"
                " all, then start this one anew",
            )
        self._users.check_mutual(asked)
        await self.change(lambda _: (asked,))
        return UserInfo(name=asked.name, source=CATALOG)

    async def delete(self) -> None:
        """Prove nothing to initiators.  Raises VolumeError, OSError or NotEverywhere."""

        def edit(kept: Mutual) -> Mutual:
            if not kept:
                raise VolumeError(VolumeFault.MISSING, "no mutual CHAP in the catalog")
            return ()

        await self.change(edit)

    def apply(self, values: Mutual, done: Callable[[], None]) -> None:
        """The users' policy has it."""
        self._users.follow_mutual(done)


def _no_user(name: str) -> VolumeError:
    return VolumeError(VolumeFault.MISSING, f"no user {name[:80]!r} in the catalog")
