"""The ready line and the commands under it."""

from __future__ import annotations

from target.cli.ready import ready_text
from target.config import Options, Portal, load_serve_config
from target.ready import ReadyInfo, ReadyLun

IQN = "iqn.2026-11.io.lunmesh:target"


def test_the_line_and_the_commands_that_mount() -> None:
    ready = ReadyInfo(
        IQN,
        (Portal("127.0.0.1", 3260), Portal("::1", 3260)),
        (ReadyLun("0", "disk0", 1 << 30), ReadyLun("1", "iso", 4096, readonly=True)),
    )
    assert ready_text(ready, load_serve_config(Options())).split("\n") == [
        f"lunmesh ready: {IQN} on 127.0.0.1:3260, [::1]:3260 "
        "(LUN 0 disk0 1 GiB, LUN 1 iso 4 KiB read-only)",
        "  Linux    iscsiadm -m discovery -t sendtargets -p 127.0.0.1:3260",
        f"           iscsiadm -m node -T {IQN} -p 127.0.0.1:3260 --login",
        f"  QEMU     qemu-img info iscsi://127.0.0.1:3260/{IQN}/0",
        "  libiscsi iscsi-ls -s iscsi://127.0.0.1:3260",
    ]


def test_a_portal_on_every_address_is_reached_on_loopback() -> None:
    for host, reached in (("0.0.0.0", "127.0.0.1:860"), ("::", "[::1]:860")):
        ready = ReadyInfo(IQN, (Portal(host, 860),), (ReadyLun("0", "disk0", 512),))
        lines = ready_text(ready, load_serve_config(Options())).split("\n")
        assert f"on {Portal(host, 860)} (" in lines[0]
        assert all(reached in line for line in lines[1:])


def test_chap_is_explained_without_a_secret() -> None:
    config = load_serve_config(
        Options(chap="alice:zebrazebrazebra", mutual_chap="me:giraffegiraffe")
    )
    ready = ReadyInfo(IQN, (Portal("127.0.0.1", 3260),), (ReadyLun("0", "disk0", 512),))
    text = ready_text(ready, config)
    assert "node.session.auth.username -v alice" in text
    assert "node.session.auth.username_in -v me" in text
    assert "LIBISCSI_CHAP_USERNAME=alice" in text
    assert "zebra" not in text
    assert "giraffe" not in text


def test_a_thousand_luns_stay_one_line() -> None:
    luns = tuple(ReadyLun(str(n), f"v{n}", 1 << 30) for n in range(1000))
    ready = ReadyInfo(IQN, (Portal("127.0.0.1", 3260),), luns)
    first = ready_text(ready, load_serve_config(Options())).split("\n")[0]
    assert first.endswith("LUN 7 v7 1 GiB and 992 more)")
