"""A list of thousands of volumes is made while commands go on, and is right all the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import structlog

from target.block.pool import BufferPool
from target.config.load import load_serve_config
from target.config.options import Options, VolumeTable
from target.datadir import DataDir
from target.scsi.bus import SCSIBus
from target.scsi.lun import LunAddress
from target.volumes import Volumes
from workers.executor import BlockingExecutor

COUNT = 6


def test_what_changes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("target.volumes.VOLUMES_AT_A_STRETCH", 1)
    wanted: list[str | VolumeTable] = [f"disk{number}=1M" for number in range(COUNT)]
    config = load_serve_config(Options(data_dir=str(tmp_path / "data"), volume=wanted))

    async def story() -> None:
        executor = BlockingExecutor(1, asyncio.get_running_loop().call_soon_threadsafe)
        data, pool = DataDir(config.data_dir), BufferPool(config.buffer_memory_bytes)
        log = structlog.get_logger()
        volumes = Volumes(
            config, data, executor, SCSIBus(), pool, log, port_designators=lambda _: []
        )
        await volumes.start(all_volumes=True)
        by_address = volumes._by_address
        last = by_address.pop(LunAddress("", COUNT - 1))
        listing = asyncio.ensure_future(volumes.all())
        for _ in range(3):
            await asyncio.sleep(0)
        assert not listing.done()
        # One that was told and one that was not go; two change places, and one comes.
        del by_address[LunAddress("", 0)], by_address[LunAddress("", 4)]
        one, other = LunAddress("", 1), LunAddress("", 3)
        by_address[one], by_address[other] = by_address[other], by_address[one]
        by_address[LunAddress("", 7)] = last
        shown = [(1, "disk3"), (2, "disk2"), (3, "disk1"), (7, "disk5")]
        assert [(it.lun, it.name) for it in await listing] == shown
        await volumes.stop()
        await volumes.close()
        executor.close()
        data.close()

    asyncio.run(story())
