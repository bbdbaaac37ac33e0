"""The fuzzer: one target, and a new connection for each mutated stream.

After each stream the connection is dropped, as a lost TCP connection would be; at the end of each
batch nothing may be left of any of them.
"""

from __future__ import annotations

import logging
import random
import resource
import uuid
from collections import Counter
from dataclasses import dataclass, field
from itertools import count

from target.block.pool import BufferPool
from target.block.volume import Volume
from target.iscsi.channel import Channel
from target.iscsi.parameters import TargetLimits
from target.iscsi.receiver import SCRATCH_BYTES, FramingError
from target.iscsi.session import plan_window
from target.iscsi.target import IscsiTarget, TargetOptions
from target.scsi.bus import SCSIBus
from target.scsi.disk import DiskDevice
from tests.fuzz.mutate import mutated
from tests.fuzz.sessions import TARGET, sessions
from workers.memory_store import MemoryStore

POOL_BYTES = 32 << 20
VOLUME_BYTES = 4 << 20
SESSIONS_MAX = 16
BATCH_STREAMS = 2000
REJECT, SCSI_RESPONSE, DATA_IN, LOGIN_RESPONSE = 0x3F, 0x21, 0x25, 0x23
BHS_BYTES = 48


@dataclass
class Report:
    """What a run saw."""

    seed: int
    streams: int = 0
    sent_bytes: int = 0
    framing_errors: int = 0
    hang_ups: int = 0
    full_feature: int = 0
    answers: Counter[int] = field(default_factory=Counter)  # by opcode
    memory_growth_bytes: int = 0

    def __str__(self) -> str:
        answers = self.answers
        return (
            f"seed {self.seed}: {self.streams} streams, {self.sent_bytes} bytes;"
            f" {self.full_feature} reached the full feature phase;"
            f" {answers[LOGIN_RESPONSE]} login responses, {answers[SCSI_RESPONSE]} SCSI responses,"
            f" {answers[DATA_IN]} Data-Ins, {answers[REJECT]} rejects;"
            f" {self.hang_ups} hang-ups, {self.framing_errors} framing errors;"
            f" memory grew by {self.memory_growth_bytes >> 10} KiB"
        )


class Fuzzer:
    """A target that is fed streams until something is wrong."""

    def __init__(self, seed: int) -> None:
        self.report = Report(seed)
        self._rng = random.Random(seed)
        self._seeds = sessions()
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._pool = BufferPool(POOL_BYTES)
        bus = SCSIBus()
        self._volume = Volume("disk", uuid.UUID(int=1), [MemoryStore(VOLUME_BYTES)])
        bus.add(0, DiskDevice(self._volume))
        first_burst, sessions_max = plan_window(self._pool, SESSIONS_MAX)
        counter = count(1)
        self._target = IscsiTarget(
            TARGET,
            bus,
            self._pool,
            limits=TargetLimits(first_burst_length=first_burst),
            options=TargetOptions(sessions_max=sessions_max),
            random=lambda size: next(counter).to_bytes(size),
            clock=lambda: 0.0,
        )

    def run(self, streams: int) -> Report:
        """Feed ``streams`` streams; raises AssertionError, or whatever the target let escape."""
        # A malformed login is worth a warning to an operator, not two hundred thousand of them;
        # an internal error is logged as one, and then it is not only logged.
        errors = _Errors()
        root = logging.getLogger("target")
        level = root.level
        root.addHandler(errors)
        root.setLevel(logging.ERROR)
        settled = 0
        try:
            while self.report.streams < streams:
                for _ in range(min(BATCH_STREAMS, streams - self.report.streams)):
                    self._stream()
                self._check()
                assert not errors.messages, errors.messages[0]
                # The first batches fill caches and the arenas of the allocator.
                if not settled and self.report.streams >= streams // 4:
                    settled = _resident_bytes_max()
        finally:
            root.removeHandler(errors)
            root.setLevel(level)
        self.report.memory_growth_bytes = _resident_bytes_max() - settled
        return self.report

    def _stream(self) -> None:
        rng, report = self._rng, self.report
        channel = Channel(self._target, _nobody_to_wake, "192.0.2.9", ("192.0.2.1", 3260), 0.0)
        data = b"".join(mutated(rng, rng.choice(self._seeds)))
        report.streams += 1
        report.sent_bytes += len(data)
        pieces = [len(data)] if rng.random() < 0.5 else _cuts(rng, len(data))
        at = 0
        try:
            for end in pieces:
                while at < end and not (channel.closed or channel.hanging_up):
                    at += self._feed(channel, data[at:end])
                    self._collect(channel)
        except FramingError:
            report.framing_errors += 1
        report.full_feature += channel.endpoint is not None
        report.hang_ups += channel.hanging_up
        channel.lost("the stream is over")

    def _feed(self, channel: Channel, data: bytes) -> int:
        taken = 0
        for buffer in channel.receiver.buffers(self._scratch):
            piece = data[taken : taken + len(buffer)]
            buffer[: len(piece)] = piece
            taken += len(piece)
        channel.received(self._scratch, taken)
        if self._rng.random() < 0.5:
            channel.receiver.settle(self._scratch)
        return taken

    def _collect(self, channel: Channel) -> None:
        """Take the output as a socket would, and count what it is."""
        sender = channel.sender
        while sender.backlog:
            for part in sender.out:
                if isinstance(part, bytes) and len(part) >= BHS_BYTES:
                    self.report.answers[part[0]] += 1
            sender.sent(sender.backlog)

    def _check(self) -> None:
        """Nothing is left of any stream."""
        target, pool = self._target, self._pool
        assert not target.sessions, "sessions are left"
        assert not target.busy, "tasks or ending sessions are left"
        assert not target.bus.nexuses, "nexuses are left"
        for unit in (*target.bus.units.values(), target.bus.absent):
            assert not unit.tasks_of(), "commands are left"
            assert not unit.attachments, "attachments are left"
        assert pool.used == 0, f"{pool.used} segments are out"
        assert pool.waiting == 0, "somebody waits for buffers"
        assert pool.reserved == 0, "reserved segments are left"
        assert pool.spare == pool.unreserved_total, "spare segments are missing"
        assert self._volume._ranges.idle, "byte ranges are locked"


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))


def _nobody_to_wake() -> None:
    return


def _cuts(rng: random.Random, size: int) -> list[int]:
    return [*sorted(rng.randrange(size + 1) for _ in range(rng.randint(1, 6))), size]


def _resident_bytes_max() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
