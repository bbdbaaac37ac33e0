"""Command descriptor blocks, for tests. Others are written out where they are needed."""

TEST_UNIT_READY = bytes(6)


def inquiry(page: int | None = None, length: int = 255) -> bytes:
    """Standard data, or a VPD page."""
    return bytes([0x12, page is not None, page or 0]) + length.to_bytes(2) + b"\0"


def request_sense(length: int = 252, *, descriptor: bool = False) -> bytes:
    return bytes([0x03, descriptor, 0, 0, length, 0])


def report_luns(length: int = 4096) -> bytes:
    return bytes([0xA0, 0, 0, 0, 0, 0]) + length.to_bytes(4) + b"\0\0"


def read_capacity10() -> bytes:
    return b"\x25" + bytes(9)


def read_capacity16(length: int = 32) -> bytes:
    return b"\x9e\x10" + bytes(8) + length.to_bytes(4) + b"\0\0"


def read10(lba: int, blocks: int, flags: int = 0) -> bytes:
    return _ten(0x28, lba, blocks, flags)


def write10(lba: int, blocks: int, flags: int = 0) -> bytes:
    return _ten(0x2A, lba, blocks, flags)


def read16(lba: int, blocks: int, flags: int = 0) -> bytes:
    return _sixteen(0x88, lba, blocks, flags)


def write16(lba: int, blocks: int, flags: int = 0) -> bytes:
    return _sixteen(0x8A, lba, blocks, flags)


def synchronize_cache10(lba: int = 0, blocks: int = 0) -> bytes:
    return _ten(0x35, lba, blocks, 0)


def write_same16(lba: int, blocks: int, flags: int = 0) -> bytes:
    return _sixteen(0x93, lba, blocks, flags)


def compare_and_write(lba: int, blocks: int, flags: int = 0) -> bytes:
    return bytes([0x89, flags]) + lba.to_bytes(8) + bytes([0, 0, 0, blocks, 0, 0])


def unmap(parameter_length: int) -> bytes:
    return b"\x42" + bytes(6) + parameter_length.to_bytes(2) + b"\0"


def mode_sense10(page: int, length: int = 255, subpage: int = 0) -> bytes:
    return bytes([0x5A, 0, page, subpage, 0, 0, 0]) + length.to_bytes(2) + b"\0"


def _ten(opcode: int, lba: int, blocks: int, flags: int) -> bytes:
    return bytes([opcode, flags]) + lba.to_bytes(4) + b"\0" + blocks.to_bytes(2) + b"\0"


def _sixteen(opcode: int, lba: int, blocks: int, flags: int) -> bytes:
    return bytes([opcode, flags]) + lba.to_bytes(8) + blocks.to_bytes(4) + b"\0\0"
