"""The reservations of a logical unit that nodes keep together, and what each node has of them.

Rules:

1. What APTPL asks to keep is in the data directory of every node before a change is answered
   (``reservation_file.py``).  A node that cannot write it does not say that it has done the change.
2. A registry that has an older version than a node has forgotten the newer ones.  It gets back
   what that node has, before the node serves the unit; the others are told.
3. If a registry that had forgotten everything got back an older version, and initiators have
   changed that since, it is too late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from target.cluster.node import ClusterNode
from target.logs import Log
from target.reservation_file import ReservationCopy
from target.scsi.documents import Kept
from target.scsi.reservations.state import decode_state, encode_state
from target.shared_document import SharedDocument

KEY = "reservations"
RETRY_SECONDS = 1.0  # while the data directory cannot be written


class SharedReservations(SharedDocument):
    """Those of the unit ``lun``."""

    lasting = True

    def __init__(self, node: ClusterNode, lun: str, copy: ReservationCopy, log: Log) -> None:
        super().__init__(node, lun, KEY)
        self._copy = copy
        self._log = log
        self._writing = asyncio.Lock()

    async def recover(self) -> Kept:
        """What is kept now, with what this node has (rule 2); it has what is to last of it then.

        Raises RegistryAway, StaleNode, or ValueError if it cannot be read.
        """
        while True:
            kept = await self.kept()
            if not self._forgotten(kept):
                break
            version, state = self._copy.version, self._copy.state
            if not kept.version or state.restored != decode_state(kept.document).restored:
                state = replace(state, restored=version)
            mine = encode_state(state)
            if await self.put(kept.version, mine, version):
                self._log.warning("reservations were forgotten: put back", lun=self.lun)
                kept = Kept(version, mine)
                break
        if kept.version > self._copy.version:
            await self._write(kept)
        return kept

    def _forgotten(self, kept: Kept) -> bool:
        if self._copy.version <= kept.version:
            return False
        restored = decode_state(kept.document).restored
        return restored in (self._copy.state.restored, kept.version)  # rule 3

    def in_force(self, kept: Kept, done: Callable[[], None]) -> None:
        if self._copy.keeps(kept):
            done()
            return

        async def write() -> None:
            await self._write(kept)
            done()

        self.spawn(write())

    async def _write(self, kept: Kept) -> None:
        async with self._writing:
            while kept.version > self._copy.version:
                try:
                    await self._copy.write(kept)
                except OSError as exc:
                    self._log.error("reservations cannot be kept", lun=self.lun, reason=str(exc))
                    await asyncio.sleep(RETRY_SECONDS)
