"""A volume of the data directory as a logical unit in this process.

The node does what it always does (lock, catalog, store, flush at the end), only that no portal
listens; its volume stands at LUN 0 of a bus of our own, behind the in-process HBA.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from target import logs
from target.block.pool import BufferPool
from target.cli.errors import CliError, explain
from target.cli.scsi import Answer
from target.config import Options, ServeConfig, VolumeConfig, load_serve_config
from target.datadir import DataDir, DataDirError
from target.hba.inprocess import InProcessHba
from target.node import Node
from target.scsi.bus import SCSIBus
from target.scsi.disk import DiskDevice
from target.scsi.sense import SenseKey

BUFFER_BYTES = 16 << 20
UNIT_ATTENTIONS_MAX = 16  # more cannot be waiting for a nexus that has only begun
TEST_UNIT_READY = bytes(6)


class LocalUnit:
    """An ``Executor`` in front of the in-process HBA; each command is one run of the event loop."""

    def __init__(self, runner: asyncio.Runner, hba: InProcessHba) -> None:
        self._runner = runner
        self._hba = hba

    def execute(self, cdb: bytes, *, out: bytes = b"", in_bytes: int = 0) -> Answer:
        result = self._runner.run(self._hba.execute(cdb, out, in_bytes))
        return Answer(result.status, result.sense, result.data)

    def take_unit_attentions(self) -> None:
        """That it has just been switched on is no news here."""
        for _ in range(UNIT_ATTENTIONS_MAX):
            sense = self.execute(TEST_UNIT_READY).sense
            if sense is None or sense.key is not SenseKey.UNIT_ATTENTION:
                return


@contextlib.contextmanager
def open_unit(data_dir: str, name: str, readonly: bool) -> Iterator[LocalUnit]:
    """The volume ``name``, for as long as the context lasts."""
    try:
        config = _config_of(Path(data_dir), name, readonly)
        node = Node(config, logs.configure("warning", "text"))
        with asyncio.Runner() as runner:
            try:
                runner.run(node.start(all_volumes=False))
                with _plugged_in(runner, node) as unit:
                    yield unit
            finally:
                runner.run(node.stop())
    except DataDirError as exc:
        raise CliError(str(exc)) from exc


@contextlib.contextmanager
def _plugged_in(runner: asyncio.Runner, node: Node) -> Iterator[LocalUnit]:
    bus = SCSIBus()
    (volume,) = node.volumes.by_address.values()
    node.volumes.reserve(volume, bus.add(0, DiskDevice(volume)))
    hba = InProcessHba(bus, BufferPool(BUFFER_BYTES))
    try:
        unit = LocalUnit(runner, hba)
        unit.take_unit_attentions()
        yield unit
    finally:
        hba.close()


def _config_of(data_dir: Path, name: str, readonly: bool) -> ServeConfig:
    """What ``serve`` would be told to serve just this volume as it is."""
    try:
        data_dir.stat()  # opening it would make it
    except OSError as exc:
        raise CliError(f"data directory {explain(exc)}") from exc
    data = DataDir(data_dir)
    volumes = data.volumes
    data.close()
    record = volumes.get(name)
    if record is None:
        known = ", ".join(sorted(volumes)[:20]) or "none"
        raise CliError(f"no volume {name!r} in {data_dir}, there are: {known}")
    volume = VolumeConfig(
        name=name,
        size_bytes=None if record.path else record.size_bytes,
        path=Path(record.path) if record.path else None,
        block_bytes=record.block_bytes,
        chunk_bytes=record.chunk_bytes,
        readonly=readonly,
    )
    return msgspec.structs.replace(
        load_serve_config(Options()),
        data_dir=data_dir,
        portals=(),
        processes=1,
        admin=None,
        admin_token=None,
        admin_tls=None,
        audit_log=None,
        volumes=(volume,),
        buffer_memory_bytes=BUFFER_BYTES,
        io_threads=1,
        busy_poll_seconds=0.0,
    )
