"""Designators of the target port, byte for byte (SPC-4 7.8.6)."""

from __future__ import annotations

from target.iscsi.port_names import port_designators


def test_the_port_is_named_after_target_and_portal_group() -> None:
    relative, group, port, device = port_designators("iqn.a:b", 1, 2)
    assert relative == bytes.fromhex("51 94 00 04 0000 0002")
    assert group == bytes.fromhex("51 95 00 04 0000 0001")
    assert port == bytes.fromhex("53 98 00 14") + b"iqn.a:b,t,0x0001".ljust(20, b"\0")
    assert device == bytes.fromhex("53 a8 00 08") + b"iqn.a:b\0"
