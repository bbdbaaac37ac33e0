"""A registry in memory as one life of a node has it: with proofs, as ``RedisRegistry`` adds them.

Nothing here depends on pytest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from target.cluster.memory_registry import MemoryRegistry
from target.cluster.registry import Event, KnownTask, LateCall, Notices, Proofs

MEMBERS = ""
PROVEN = frozenset(
    (
        *("attach", "alone", "detach", "submit", "waiting"),
        *("fence", "post", "events", "acknowledge", "replace", "settle"),
    )
)


async def _at_once(*args: Any) -> None:
    """No way to go."""


class Proving:
    """Calls of ``Registry``, and ``greet()`` for a connection that is new.

    What ``there()`` returns before a call is executed, ``back(name, it)`` gets before it is
    answered; both may raise.
    """

    def __init__(
        self,
        registry: MemoryRegistry,
        there: Callable[[], Awaitable[Any]] | None = None,
        back: Callable[[str, Any], Awaitable[None]] | None = None,
        *,
        proves: bool = True,
    ) -> None:
        self._registry = registry
        self._there = there or _at_once
        self._back = back or _at_once
        self._proves = proves
        self._proofs = Proofs()
        self._life: tuple[str, int] | None = None

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        proofs, method = self._proofs, getattr(self._registry, name)

        async def call(*args: Any) -> Any:
            if not self._proves or (name != "renew" and name not in PROVEN):
                way = await self._there()
                answer = await method(*args)
                await self._back(name, way)
                return answer
            key = MEMBERS if name == "renew" else args[0]
            while True:
                proof = self._proofs.next(key)
                way = await self._there()
                try:
                    answer = await method(*args, proof=proof)
                except LateCall:
                    continue
                break
            await self._back(name, way)
            proofs.answered(key, proof)
            if name == "renew":
                proofs.heard(key, answer.change)
                self._life = args[:2]
            elif name == "attach":
                proofs.heard(key, answer.event)
            elif name == "events":
                for event in answer:
                    proofs.heard(key, event.number)
            elif name == "detach":
                proofs.forget(key)
            return answer

        return call

    def tasks(self, lun: str) -> AsyncIterator[list[KnownTask]]:
        """Pages, for which nothing is proved."""
        return self._registry.tasks(lun)

    async def greet(self) -> None:
        """Raises StaleNode."""
        if self._life is not None and self._proves:
            await self._registry.greet(*self._life, self._proofs.last(MEMBERS))

    def listening(self, notices: Notices) -> Notices:
        """``notices``, and what they prove."""
        return _Listening(notices, self._proofs)


class _Listening(Notices):
    def __init__(self, notices: Notices, proofs: Proofs) -> None:
        self._notices = notices
        self._proofs = proofs

    def granted(self, lun: str, sequence: int) -> None:
        self._notices.granted(lun, sequence)

    def happened(self, lun: str, event: Event) -> None:
        self._proofs.heard(lun, event.number)
        self._notices.happened(lun, event)

    def acknowledged(self, lun: str, node: str, number: int) -> None:
        self._notices.acknowledged(lun, node, number)

    def departed(self, lun: str, node: str, epoch: int) -> None:
        self._notices.departed(lun, node, epoch)

    def unheard(self, lun: str) -> None:
        self._notices.unheard(lun)

    def renewed(self) -> None:
        self._notices.renewed()
