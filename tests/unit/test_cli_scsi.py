"""``lunmesh scsi`` above the volume: CDBs, pieces, files and words."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from target.cli import scsi
from target.cli.errors import CliError
from target.cli.run import run
from target.cli.scsi import Answer, describe, hexdump, parse_cdb, parse_number
from target.scsi.sense import LBA_OUT_OF_RANGE, Sense, SenseKey, Status

BLOCK = 512


@dataclass
class Disk:
    """Knows the five commands that are sent to it, and keeps a list of them."""

    blocks: int = 8192
    thin: bool = True
    content: bytearray = field(init=False)
    cdbs: list[bytes] = field(default_factory=list)
    answer: Answer | None = None

    def __post_init__(self) -> None:
        self.content = bytearray(self.blocks * BLOCK)

    def execute(self, cdb: bytes, *, out: bytes = b"", in_bytes: int = 0) -> Answer:
        self.cdbs.append(cdb)
        if self.answer is not None:
            return self.answer
        data = b""
        match cdb[0]:
            case 0x12:
                data = b"\0\0\6\2\x1f\0\0\0LUNMESH VIRTUAL-DISK    1.0 "
            case 0x9E:
                assert cdb[1] == 0x10
                data = struct.pack(">QIxxB17x", self.blocks - 1, BLOCK, 0x80 if self.thin else 0)
            case 0x88:
                lba, count = struct.unpack_from(">QI", cdb, 2)
                data = bytes(self.content[lba * BLOCK : (lba + count) * BLOCK])
            case 0x8A:
                lba, count = struct.unpack_from(">QI", cdb, 2)
                assert len(out) == count * BLOCK
                self.content[lba * BLOCK : (lba + count) * BLOCK] = out
            case 0x35:
                pass
            case opcode:
                raise AssertionError(opcode)
        assert len(data) <= in_bytes
        return Answer(Status.GOOD, None, data)

    def opcodes(self) -> list[int]:
        return [cdb[0] for cdb in self.cdbs]


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_inquiry_in_words_and_bytes(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    scsi.inquiry(disk, None)
    out = capsys.readouterr().out
    assert "type 00h, vendor LUNMESH, product VIRTUAL-DISK, revision 1.0\n" in out
    assert "00000000  00 00 06 02" in out
    scsi.inquiry(disk, 0x83)
    assert [cdb[:3] for cdb in disk.cdbs] == [b"\x12\x00\x00", b"\x12\x01\x83"]


def test_readcap_in_words(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    scsi.readcap(disk)
    assert capsys.readouterr().out == ("8192 blocks of 512 bytes, last LBA 8191: 4 MiB, thin\n")


def test_a_long_read_goes_in_pieces(disk: Disk, tmp_path: Path) -> None:
    disk.content[:] = bytes(range(256)) * (len(disk.content) // 256)
    file = tmp_path / "out"
    scsi.read(disk, 1, 5000, str(file))
    assert file.read_bytes() == disk.content[BLOCK : 5001 * BLOCK]
    assert disk.opcodes() == [0x9E, 0x88, 0x88, 0x88]


def test_a_short_read_is_a_hex_dump_with_addresses(
    disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    disk.content[BLOCK : BLOCK + 3] = b"abc"
    scsi.read(disk, 1, 1, None)
    first = capsys.readouterr().out.split("\n")[0]
    assert first.startswith("00000200  61 62 63 00")
    assert first.endswith("abc.............")


def test_a_long_write_goes_in_pieces_and_is_flushed(disk: Disk, tmp_path: Path) -> None:
    file = tmp_path / "in"
    file.write_bytes(b"\xa5" * (3 << 20))
    scsi.write(disk, 2, str(file))
    assert disk.content[2 * BLOCK : 2 * BLOCK + (3 << 20)] == file.read_bytes()
    assert disk.opcodes() == [0x9E, 0x8A, 0x8A, 0x8A, 0x35]


def test_half_a_block_is_not_written(disk: Disk, tmp_path: Path) -> None:
    file = tmp_path / "in"
    file.write_bytes(b"x" * 700)
    with pytest.raises(CliError, match="middle of a block"):
        scsi.write(disk, 0, str(file))
    assert not any(disk.content)


def test_past_the_end_is_said_in_plain_words(disk: Disk, tmp_path: Path) -> None:
    file = tmp_path / "in"
    file.write_bytes(bytes(1024))
    with pytest.raises(CliError, match="reach past the last one, 8191"):
        scsi.read(disk, 8191, 2, None)
    with pytest.raises(CliError, match="reach past the last one, 8191"):
        scsi.write(disk, 8191, str(file))


def test_a_raw_command_shows_data_before_its_complaint(
    disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    disk.answer = Answer(Status.CHECK_CONDITION, LBA_OUT_OF_RANGE.at(7), b"abc")
    with pytest.raises(CliError) as info:
        scsi.raw(disk, bytes(6), 3, None)
    assert str(info.value) == (
        "CHECK CONDITION: ILLEGAL REQUEST, LBA OUT OF RANGE (21h/00h), information 7"
    )
    assert "61 62 63" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(Status.BUSY, None, b""), "BUSY"),
        (Answer(0x7F, None, b""), "status 7Fh"),
        (
            Answer(Status.CHECK_CONDITION, Sense(SenseKey.MEDIUM_ERROR, 0x77, 0x12), b""),
            "CHECK CONDITION: MEDIUM ERROR, additional sense (77h/12h)",
        ),
        (
            Answer(Status.CHECK_CONDITION, LBA_OUT_OF_RANGE.field(2), b""),
            "CHECK CONDITION: ILLEGAL REQUEST, LBA OUT OF RANGE (21h/00h), CDB byte 2",
        ),
    ],
)
def test_an_answer_in_words(answer: Answer, words: str) -> None:
    assert describe(answer) == words


def test_cdbs_and_numbers() -> None:
    assert (
        parse_cdb("120000002400") == parse_cdb("12 00 00 00 24 00") == bytes.fromhex("120000002400")
    )
    assert parse_number("x", "0x83", 0, 255) == 0x83
    for bad in ("", "12", "xx0000000000", "1200000024001", "00" * 300):
        with pytest.raises(CliError, match="bad CDB"):
            parse_cdb(bad)
    for bad in ("", "many", "-1", "256", "1.5"):
        with pytest.raises(CliError, match=r"^--page: must be"):
            parse_number("--page", bad, 0, 255)


def test_a_hex_dump_ends_with_a_short_line() -> None:
    assert hexdump(b"") == ""
    assert hexdump(bytes(17)).split("\n")[1] == f"00000010  {'00':<47}  ."


@pytest.mark.parametrize(
    "args",
    [
        ["read"],
        ["read", "x", "1"],
        ["read", "0", "0"],
        ["read", "-1", "1"],
        ["write", "0"],
        ["inquiry", "--page", "0x100"],
        ["raw", "zz"],
        ["raw", "12"],
        ["raw", "120000002400", "--in", "-5"],
        ["raw", "120000002400", "--in", "99999999999"],
        ["raw", "120000002400", "--in", "5", "--out", "x"],
        ["nosuch"],
        [],
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line_and_status_2(
    args: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["scsi", *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lunmesh: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
