"""Changes of the catalog's CHAP users (``catalog_part.py``).

Whose proof does not stand any more is logged out.
"""

from __future__ import annotations

from collections.abc import Callable

from target.catalog_part import CatalogPart
from target.chap_users import USERS_MAX, UserRecord, Users, policy_of
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
        if self.kept:
            target.set_chap(policy_of(configured, self.kept, log), lambda: None)

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
        return [user.secret for user in self.kept]

    async def create(self, user: UserRecord) -> None:
        """Add a user.  Raises ValueError, VolumeError or OSError."""
        user = user.checked()
        if user.name in self.configured:
            raise VolumeError(VolumeFault.CONFLICT, f"user {user.name!r} is configured here")
        mutual = self._configured.mutual if self._configured is not None else None
        if mutual is not None and Secret(user.secret) == mutual[1]:
            raise ValueError("the secret must differ from the one of mutual CHAP")

        def edit(users: Users) -> Users:
            if any(other.name == user.name for other in users):
                raise VolumeError(
                    VolumeFault.CONFLICT, f"there is a user {user.name!r} already: delete it first"
                )
            if len(users) >= USERS_MAX:
                raise VolumeError(VolumeFault.CONFLICT, f"there are {USERS_MAX} users already")
            return (*users, user)

        await self.change(edit)

    async def delete(self, name: str, *, everybody: bool = False) -> None:
        """Remove a user; the last one only if ``everybody`` may log in from then on.

        Raises VolumeError or OSError.
        """

        def edit(users: Users) -> Users:
            others = tuple(other for other in users if other.name != name)
            if len(others) == len(users):
                raise VolumeError(VolumeFault.MISSING, f"no user {name!r} in the catalog")
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
        self._target.set_chap(policy_of(self._configured, users, self._log), done)
