"""What is read is what was written, where no store has it at hand.

Whatever was negotiated, in whatever pieces data come, and in whatever order the store answers.
With data at hand: test_transfers.py.
"""

from __future__ import annotations

import random

import pytest

from tests.support import cdb
from tests.support.iscsi_socket import NoAnswer
from tests.support.stores import HeldStore, OwnMemoryStore
from tests.support.wire import Wire, wire
from tests.support.wire_initiator import WireInitiator
from workers.memory_store import MemoryStore
from workers.read_cache import ReadCache

SIZE = 1 << 20
AREA_BLOCKS = 680  # of one of three commands that are outstanding together
ROUNDS = 20
FUA = 0x08


class Session:
    """One that does as ``chance`` says."""

    def __init__(self, w: Wire, far: HeldStore, chance: random.Random) -> None:
        self.far = far
        self.chance = chance
        self.model = bytearray(SIZE)
        first = chance.choice([512, 1000, 2048, 4096, 6144, 8192, 65536])
        burst = max(first, chance.choice([1024, 4096, 8192, 65536, 262144]))
        self.initiator: WireInitiator = w.login(
            {
                "FirstBurstLength": str(first),
                "MaxBurstLength": str(burst),
                "ImmediateData": chance.choice(["Yes", "No"]),
                "InitialR2T": chance.choice(["Yes", "No"]),
                "MaxOutstandingR2T": chance.choice(["1", "4"]),
                "DataDigest": chance.choice(["None", "CRC32C"]),
                "MaxRecvDataSegmentLength": chance.choice(["2048", "8192", "262144"]),
            }
        )
        self.initiator.parameters.send_max = chance.choice([2048, 4096, 16384, 262144])
        socket = self.initiator.socket
        step = chance.choice([100, 3000, 20000, SIZE])
        socket.pieces = lambda data: (data[at : at + step] for at in range(0, len(data), step))
        if chance.random() < 0.5:
            socket.settles = lambda: chance.random() < 0.5

    def round(self) -> None:
        """Up to three commands at once, apart from each other."""
        chance, model = self.chance, self.model
        tasks = []
        for area in range(chance.choice([1, 1, 3])):
            lba = area * AREA_BLOCKS + chance.choice([0, 3, 8, 16])
            blocks = chance.choice([1, 2, 8, 16, 17, 32, 64, 200, 600])
            here = slice(lba * 512, (lba + blocks) * 512)
            if chance.random() < 0.5:
                data = chance.randbytes(blocks * 512)
                model[here] = data
                flags = FUA if chance.random() < 0.3 else 0
                task = self.initiator.start(cdb.write10(lba, blocks, flags), data_out=data)
                tasks.append((task, b""))
            else:
                task = self.initiator.start(cdb.read10(lba, blocks), read_length=blocks * 512)
                tasks.append((task, bytes(model[here])))
        while not all(task.done for task, _ in tasks):
            self._take()
            if self.far.held:
                self.far.release(chance.randrange(len(self.far.held)))
        for task, wanted in tasks:
            assert task.status == 0
            assert task.data_in == wanted

    def _take(self) -> None:
        """All that the target has to say."""
        while True:
            try:
                pdu = self.initiator.read_pdu()
            except NoAnswer:
                return
            self.initiator.process(pdu)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_what_is_read_was_written(seed: int, cached: bool) -> None:
    far = HeldStore(OwnMemoryStore(MemoryStore(SIZE)))
    store = ReadCache(far, lambda: SIZE, clock=lambda: 1.0) if cached else far
    with wire(stores=[store]) as w:
        session = Session(w, far, random.Random(seed))
        for _ in range(ROUNDS):
            session.round()
        disk = bytearray(SIZE)
        assert far.inner.read_now(0, [memoryview(disk)], SIZE)
        assert disk == session.model
