"""Changes of the catalog's CHAP users while a node runs: here, and on all nodes of a cluster.

As with the access list (``access_changes.py``): a change is kept first, and counts as done when it
is in force on every node.  Whose proof does not stand any more is logged out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from target.chap_users import USERS_MAX, UserRecord, Users, policy_of
from target.cluster.registry import RegistryAway, StaleNode
from target.datadir import DataDir
from target.iscsi.chap import ChapPolicy, Secret
from target.iscsi.target import IscsiTarget
from target.logs import Log
from target.shared_catalog import SharedCatalog
from target.volume_errors import VolumeError, VolumeFault


class UserChanges:
    """The users that ``target`` asks for, ``configured`` and as ``data`` keeps them."""

    def __init__(
        self,
        data: DataDir,
        target: IscsiTarget,
        configured: ChapPolicy | None,
        shared: SharedCatalog | None,
        log: Log,
    ) -> None:
        self._data = data
        self._target = target
        self._configured = configured
        self._shared = shared
        self._log = log
        self._lock = asyncio.Lock()
        if data.users:
            target.set_chap(policy_of(configured, data.users, log), lambda: None)
        if shared is not None:
            shared.follow_users = self.follow

    @property
    def names(self) -> list[str]:
        """Those of the catalog, as they are in force here."""
        return sorted(user.name for user in self._data.users)

    @property
    def configured(self) -> list[str]:
        """Those that this node is configured with."""
        return sorted(self._configured.users) if self._configured is not None else []

    @property
    def secrets(self) -> list[str]:
        """Those of the catalog, for whoever strikes them out of what is shown."""
        return [user.secret for user in self._data.users]

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

        await self._change(edit)

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

        await self._change(edit)

    async def _change(self, edit: Callable[[Users], Users]) -> None:
        async with self._lock:
            if self._shared is None:
                users = edit(self._data.users)
            else:
                try:
                    users = await self._shared.change_users(edit)
                except (RegistryAway, StaleNode) as exc:
                    raise VolumeError(VolumeFault.AWAY, str(exc)) from exc
            await self._use(users)
        if self._shared is not None and not await self._shared.announce():
            self._log.warning("not every node has followed a change of the CHAP users yet")

    async def follow(self, users: Users) -> None:
        """Do here what another node has done.  Raises OSError."""
        async with self._lock:
            if users != self._data.users:
                await self._use(users)

    async def _use(self, users: Users) -> None:
        self._data.keep_users(users)
        in_force: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        policy = policy_of(self._configured, users, self._log)
        self._target.set_chap(policy, lambda: in_force.set_result(None))
        await in_force
        self._log.info("CHAP users changed", users=len(users))
