"""Resets through several nodes at once."""

from __future__ import annotations

import asyncio

from target.block.pool import BufferPool
from target.block.volume import Volume
from target.scsi.bus import SCSIBus
from target.scsi.disk import DiskDevice
from target.scsi.request import State
from tests.support import reservations as pr
from tests.support.recording_hba import RecordingHba
from tests.support.scsi_disk import UUID
from tests.support.skipping_loop import run_skipping
from tests.support.tracked_nodes import LUN, Nodes, nothing_to_fence
from tests.support.two_nodes import Shared
from workers.memory_store import MemoryStore


def test_resets_of_two_nodes_that_end_changes_of_both() -> None:
    """Each change is told behind the other node's reset, which waits for a change that it ends."""

    async def story() -> None:
        nodes, kept = Nodes(), Shared()
        hbas: list[RecordingHba] = []
        for port, name in enumerate(("one", "two"), 1):
            node = await nodes.join(name)
            bus = SCSIBus(port)
            unit = bus.add(0, DiskDevice(Volume("disk0", UUID, [MemoryStore(1 << 20)])))
            unit.reservations.keep_in(kept, kept.inner.kept)
            unit.gate = node.track(LUN, unit, nothing_to_fence)
            await node.trackers[LUN].wait_open()
            hbas.append(RecordingHba(bus, BufferPool(8 << 20), name))
            hbas[-1].settle()
        kept.hold = True
        register = pr.pr_out(pr.REGISTER_AND_IGNORE)
        changes = [hba.submit(register, early=pr.keys(0, 1)) for hba in hbas]
        await asyncio.sleep(0.1)
        assert len(kept.held) == 2
        outcomes: list[bool] = []
        for hba in hbas:
            hba.nexus.attachments[hba.lun].unit.reset(outcomes.append)
        await asyncio.sleep(0.1)
        kept.release()
        await asyncio.sleep(60)
        assert outcomes == [True, True]
        assert [req.state for req in changes] == [State.ABORTED] * 2
        await nodes.close()

    run_skipping(story())
