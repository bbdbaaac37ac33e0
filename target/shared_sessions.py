"""The sessions of all nodes: each writes down its own, where the others can read them.

A node writes when an initiator has come or gone, never for a command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from target.block.pool import SEGMENT_BYTES
from target.cluster.ending import ended
from target.cluster.node import ClusterNode
from target.cluster.registry import RegistryAway, StaleNode
from target.iscsi.session import Session
from target.iscsi.target import IscsiTarget
from target.node_documents import NodeDocuments
from target.sight_info import SessionInfo, SessionWindow

RETRY_SECONDS: Final = 0.5  # while the registry is away
PACE_SECONDS: Final = 0.2  # what comes and goes meanwhile is written together


class _Document(msgspec.Struct, kw_only=True):
    epoch: int
    sessions: list[SessionInfo]


def sessions_of(node_id: str, target: IscsiTarget) -> list[SessionInfo]:
    """Those of this node, by TSIH; discovery aside."""
    return [
        SessionInfo(
            id=f"{node_id}/{session.tsih}",
            node=node_id,
            tsih=session.tsih,
            initiator=session.initiator,
            isid=session.isid.hex(),
            target=target.targets.name_of(session.nexus.target) or session.nexus.target,
            address=channel.peer,
            user=session.user or "",
            commands=len(session.tasks),
            header_digest=session.parameters.header_digest,
            data_digest=session.parameters.data_digest,
            window=_window(session),
        )
        for session, channel in sorted(target.channels.items(), key=lambda s: s[0].tsih)
        if session.nexus is not None and session.parameters is not None
    ]


def _window(session: Session) -> SessionWindow | None:
    window, share = session.window, session.share
    if window is None:
        return None
    return SessionWindow(
        credits=window.credits,
        outstanding=window.outstanding(session.exp_cmd_sn),
        reserved_bytes=share.reserved * SEGMENT_BYTES,
        reserved_used_bytes=share.reserved_out * SEGMENT_BYTES,
        held_bytes=share.held * SEGMENT_BYTES,
        limit_bytes=share.limit * SEGMENT_BYTES,
    )


class SharedSessions:
    """``own`` tells those of ``node``; ``changed`` has to be called when they are others."""

    def __init__(self, node: ClusterNode) -> None:
        self.own: Callable[[], list[SessionInfo]] = list
        self._node = node
        self._documents = NodeDocuments(node, "sessions", "list", _Document)
        self._dirty = False
        self._closed = False
        self._writing: asyncio.Task[None] | None = None

    def changed(self) -> None:
        """An initiator has come or gone."""
        self._dirty = True
        if (self._writing is None or self._writing.done()) and not self._closed:
            self._writing = asyncio.ensure_future(self._write_all())

    async def _write_all(self) -> None:
        try:
            while self._dirty:
                self._dirty = False
                try:
                    await self._documents.write(self._document(self.own()))
                    await asyncio.sleep(PACE_SECONDS)
                except RegistryAway:
                    self._dirty = True
                    await asyncio.sleep(RETRY_SECONDS)
        except StaleNode:
            self._node.fenced()

    def _document(self, sessions: list[SessionInfo]) -> _Document:
        # How many commands they have is not known by the time that somebody reads it.
        told = [
            msgspec.structs.replace(session, commands=None, window=None) for session in sessions
        ]
        return _Document(epoch=self._node.epoch, sessions=told)

    async def others(self) -> list[SessionInfo]:
        """Those of the other nodes, by node.  Raises RegistryAway."""
        told = [document for _, document in await self._documents.others()]
        return [session for it in told if it is not None for session in it.sessions]

    async def close(self) -> None:
        """The node ends: nothing is left of what it has written."""
        self._closed = True
        await ended(self._writing)
        await self._documents.close(self._document([]))
