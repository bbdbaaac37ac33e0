"""However the bytes arrive, the answers are the same; lengths past the limit end the connection."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from target.iscsi.target import TargetOptions
from tests.support import cdb
from tests.support import iscsi_pdu as raw
from tests.support.clean import assert_idle
from tests.support.iscsi_pdu import NO_TAG, Opcode
from tests.support.wire import Wire, wire
from tests.support.wire_initiator import WireInitiator
from tests.support.wire_socket import Pieces

# A window that does not grow with use: MaxCmdSN is the same then, however many PDUs make a pass.
OPTIONS = TargetOptions(queue_depth=4)
PLAIN = {"InitialR2T": "No", "MaxRecvDataSegmentLength": "4096", "MaxBurstLength": "65536"}
KEYS = {
    "plain": PLAIN,
    "digests": {**PLAIN, "HeaderDigest": "CRC32C", "DataDigest": "CRC32C"},
}
LONG = b"\x7f" + bytes(6) + b"\x18" + bytes(24)  # a CDB of 32 bytes
DATA = bytes(range(253)) * 1000


def conversation(session: WireInitiator) -> None:
    """Something of everything, good and bad."""
    session.settle()
    assert session.command(cdb.write10(0, 200), data_out=DATA[: 200 * 512]).status == 0
    assert session.command(cdb.read10(3, 90), read_length=90 * 512).status == 0
    assert session.command(cdb.read10(3, 1), read_length=4097).underflow == 3585
    assert session.nop(b"odd") == b"odd"
    assert session.command(LONG).status == 2
    write = session.scsi(cdb.write10(8, 200), edtl=200 * 512, write=True)
    (r2t, *_) = session.exchange(write)
    stray = session.data_out(write, DATA[:40_000], ttt=r2t.ttt + 77)
    unknown = session.data_out(write, DATA[:20_002], ttt=r2t.ttt)
    unknown.itt = 0x7FFFFFFF
    wrong = session.data_out(write, DATA[:30_000], offset=4, ttt=r2t.ttt, final=False)
    last = session.data_out(write, DATA[:65536], ttt=r2t.ttt)
    session.exchange(stray, unknown, wrong, last)
    assert session.task_management(2) == 0
    assert session.text({"X-key": "value"}) == {"X-key": "NotUnderstood"}
    assert session.command(cdb.read10(0, 8), read_length=4096).status == 0
    assert session.logout() == 0


def recorded(keys: dict[str, str]) -> tuple[bytes, bytes]:
    """All bytes of a conversation, from its first Login Request on: sent, and received."""
    with wire(options=OPTIONS) as w:
        session = w.initiator(isid=b"\x80\1\2\3\4\5")
        session.socket.sent, session.socket.answered = bytearray(), bytearray()
        session.login(keys)
        conversation(session)
        return bytes(session.socket.sent), bytes(session.socket.answered)


@pytest.fixture(scope="module", params=KEYS)
def session_bytes(request: pytest.FixtureRequest) -> tuple[bytes, bytes]:
    return recorded(KEYS[request.param])


def replayed(
    sent: bytes, pieces: Pieces, settles: Callable[[], bool] = lambda: True, scratch_bytes: int = 0
) -> bytes:
    with wire(options=OPTIONS) as w:
        if scratch_bytes:
            w.scratch = w.scratch[:scratch_bytes]
        socket = w.connect()
        socket.settles = settles
        socket.answered = bytearray()
        for piece in pieces(memoryview(sent)):
            socket.feed(piece)
        assert_idle(w.target)
        return bytes(socket.answered)


def chunks(size: int) -> Pieces:
    return lambda data: (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("size", [1 << 20, 100_000, 16_384, 4_099, 48, 47, 13])
def test_pieces_of_any_size_get_the_same_answers(
    session_bytes: tuple[bytes, bytes], size: int
) -> None:
    sent, answered = session_bytes
    assert replayed(sent, chunks(size)) == answered


def test_a_byte_at_a_time_gets_the_same_answers(session_bytes: tuple[bytes, bytes]) -> None:
    sent, answered = session_bytes
    assert replayed(sent, chunks(1)) == answered


@pytest.mark.parametrize("seed", range(12))
def test_random_pieces_get_the_same_answers(session_bytes: tuple[bytes, bytes], seed: int) -> None:
    rng = random.Random(seed)

    def pieces(data: memoryview) -> Iterator[memoryview]:
        while data:
            size = int(rng.paretovariate(0.3)) if rng.random() < 0.9 else rng.randrange(200_000)
            yield data[: max(1, size)]
            data = data[max(1, size) :]

    sent, answered = session_bytes
    assert replayed(sent, pieces) == answered


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("settling", [0, 0.3], ids=["never", "at times"])
@pytest.mark.parametrize("scratch_bytes", [0, 270_000], ids=["much room", "little room"])
def test_a_pdu_that_stays_in_the_buffer_gets_the_same_answer(
    session_bytes: tuple[bytes, bytes], seed: int, settling: float, scratch_bytes: int
) -> None:
    rng = random.Random(seed)

    def pieces(data: memoryview) -> Iterator[memoryview]:
        while data:
            size = rng.choice([7, 48, 1000, 30_000, 200_000])
            yield data[:size]
            data = data[size:]

    sent, answered = session_bytes
    found = replayed(sent, pieces, lambda: rng.random() < settling, scratch_bytes)
    assert found == answered


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("kind", ["command", "immediate data", "ping", "extended CDB"])
def test_a_pdu_cut_at_every_byte_is_answered_once_it_is_whole(keys: str, kind: str) -> None:
    with wire() as w:
        session = w.login(KEYS[keys])
        digests = keys == "digests"
        for cut in range(1, 140):
            pdu = {
                "command": lambda: session.scsi(cdb.TEST_UNIT_READY),
                "immediate data": lambda: session.scsi(
                    cdb.write10(0, 1), edtl=10, write=True, data=bytes(10)
                ),
                "ping": lambda: session.ping(b"0123456789ab"),
                "extended CDB": lambda: session.scsi(LONG, ahs=raw.extended_cdb_ahs(LONG)),
            }[kind]()
            data = pdu.encode(header_digest=digests, data_digest=digests)
            if cut >= len(data):
                break
            session.socket.feed(data[:cut])
            assert not session.incoming()
            session.socket.feed(data[cut:])
            (answer,) = session.incoming()
            assert answer.itt == pdu.itt
        else:
            pytest.fail("never a whole PDU")


@pytest.mark.parametrize("cut", [1, 47, 48, 49, 52, 60, 4096, 65583, 65584, 65587])
def test_a_connection_that_ends_in_a_pdu_leaves_nothing(cut: int) -> None:
    with wire() as w:
        session = w.login({**KEYS["digests"], "InitialR2T": "Yes"})
        write = session.scsi(cdb.write10(0, 128), edtl=65536, write=True)
        (r2t,) = session.exchange(write)
        out = session.data_out(write, bytes(65536), ttt=r2t.ttt)
        session.socket.feed(out.encode(header_digest=True, data_digest=True)[:cut])
        session.close()


def limit_of(w: Wire) -> int:
    return w.target.limits.max_recv_data_segment_length


@pytest.mark.parametrize("opcode", [0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x10, 0x1C, 0x25, 0x3F])
@pytest.mark.parametrize("over", [1, 1 << 20, 0xFFFFFF - (1 << 18)])
def test_a_data_segment_past_the_limit_ends_the_connection_at_once(opcode: int, over: int) -> None:
    with wire() as w:
        session = w.login()
        pdu = session.ping()
        pdu.bhs[0] = opcode
        pdu.data_length = limit_of(w) + over
        session.socket.feed(bytes(pdu.bhs))
        assert session.is_closed()
        assert "data segment" in str(session.socket.drop_reason)


def test_a_data_segment_of_the_whole_limit_is_taken() -> None:
    with wire() as w:
        session = w.login()
        size = limit_of(w)
        assert session.one(session.ping(bytes(size))).opcode == Opcode.NOP_IN


@pytest.mark.parametrize("size", [8193, 1 << 24 - 1])
def test_the_limit_of_the_login_phase_is_8192(size: int) -> None:
    with wire() as w:
        session = w.initiator()
        request = session.login_request(1, 3, b"")
        request.data_length = min(size, 0xFFFFFF)
        session.socket.feed(bytes(request.bhs))
        assert session.is_closed()


def test_every_opcode_with_any_lengths_and_flags_keeps_the_connection_or_ends_it_cleanly() -> None:
    rng = random.Random(20261122)
    with wire() as w:
        for opcode in range(256):
            session = w.login()
            pdu = raw.nop_out(itt=NO_TAG, cmd_sn=session.cmd_sn, exp_stat_sn=0)
            pdu.bhs[:] = rng.randbytes(48)
            pdu.bhs[0] = opcode
            pdu.ahs_words = rng.randrange(256)
            pdu.data_length = rng.randrange(3000)
            body = rng.randbytes(pdu.ahs_words * 4 + pdu.data_length + -pdu.data_length % 4)
            session.socket.feed(bytes(pdu.bhs) + body)
            session.incoming()
            if not session.is_closed():
                session.socket.feed(session.ping(b"x", immediate=True).encode())
                assert [p.opcode for p in session.incoming()] == [Opcode.NOP_IN]
            session.close()
            assert_idle(w.target)
