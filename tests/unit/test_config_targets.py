"""Targets, labels of portals and access entries, as flags and the file have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from target.config import ConfigError, Portal, load_serve_config
from target.config.model import TargetConfig
from target.config.options import Options
from target.scsi.access_list import AccessEntry

OWN, OTHER = "iqn.2026-11.io.lunmesh:target", "iqn.2026-11.io.lunmesh:other"
ONE = "iqn.2026-11.test:one"
TEXT = f"""
portal = ["127.0.0.1:3260", "127.0.0.1:3261,group=san"]
target = [{{ name = "{OTHER}", portal-group = "san" }}, "{OWN},portal-group=san"]

[[volume]]
name = "a"
size = "1M"
target = "{OTHER}"

[[volume]]
name = "b"
size = "1M"
target = "{OWN}"

[[acl]]
initiator = "{ONE.upper()}"
target = "{OTHER}"
volume = ["a:ro:7", "b:3"]

[[acl]]
initiator = "*"
user = "backup"
"""


def test_a_file_says_all_of_it(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(TEXT)
    config = load_serve_config(Options(), file=file)
    assert config.portals == (Portal("127.0.0.1", 3260), Portal("127.0.0.1", 3261, "san"))
    assert config.targets == (
        TargetConfig(name=OTHER, portal_groups=("san",)),
        TargetConfig(name=OWN, portal_groups=("san",)),
    )
    assert [(it.name, it.target) for it in config.volumes] == [("a", OTHER), ("b", "")]
    volumes = AccessEntry(
        initiator=ONE, target=OTHER, volumes={"a": "ro", "b": "rw"}, luns={"a": 7, "b": 3}
    )
    assert config.acls == (volumes, AccessEntry(initiator="*", user="backup"))


def test_flags_say_the_same(tmp_path: Path) -> None:
    config = load_serve_config(
        Options(
            portal=["[::1],group=san"],
            target=[f"{OTHER},portal-group=san,portal-group=lan"],
            volume=[f"a=1M,target={OTHER}"],
            acl=[f"{ONE},target={OTHER},user=alice,volume=a:rw:0,volume=b"],
        )
    )
    assert config.portals == (Portal("::1", 3260, "san"),)
    assert config.targets == (TargetConfig(name=OTHER, portal_groups=("san", "lan")),)
    assert config.volumes[0].target == OTHER
    assert config.acls == (
        AccessEntry(
            initiator=ONE,
            user="alice",
            target=OTHER,
            volumes={"a": "rw", "b": "rw"},
            luns={"a": 0},
        ),
    )


BAD = [
    (Options(portal=["h:1,group="]), "--portal: bad portal group"),
    (Options(portal=["h:1,grp=a"]), "write HOST:PORT or HOST:PORT,group=NAME"),
    (Options(portal=["h:1,group=a,group=b"]), "bad portal"),
    (Options(target=["x"]), "--target: bad iSCSI name"),
    (Options(target=[OTHER, OTHER]), "is given twice"),
    (Options(target=[f"{OTHER},group=a"]), "write portal-group=NAME"),
    (Options(target=[f"{OTHER},portal-group=a"]), "no portal leads to"),
    (Options(volume=[f"a=1M,target={OTHER}"]), "is no target"),
    (Options(volume=["a=1M,target=x"]), "bad iSCSI name"),
    (Options(acl=[f"{ONE},target={OTHER}"]), "is no target"),
    (Options(acl=[f"{ONE},volume=a:wo"]), "bad volume 'a:wo'"),
    (Options(acl=[f"{ONE},volume=a:99999"]), "must be 0 to 16383"),
    (Options(acl=[f"{ONE},volume=a:1,volume=b:1"]), "same LUN"),
    (Options(acl=[f"{ONE},volumes=a"]), "bad 'volumes=a'"),
    (Options(acl=[ONE, ONE]), "is given twice"),
    (Options(acl=["a b"]), "bad initiator name"),
]


@pytest.mark.parametrize(("flags", "problem"), BAD, ids=[problem for _, problem in BAD])
def test_a_mistake_is_one_line(flags: Options, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_serve_config(flags)
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mistake_in_a_table_has_its_line(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    for text, problem in (
        ("[[target]]\nportal-group = 'a'", ":1: this target has no 'name'"),
        (f"[[target]]\nname = '{OTHER}'\nportal-grp = 'a'", ":3: unknown key 'portal-grp'"),
        ("[[acl]]\ninitiator = 'a'\nvolume = 3", ":3: volume: expected"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError) as error:
            load_serve_config(Options(), file=file)
        assert f"{file}{problem}" in str(error.value)
