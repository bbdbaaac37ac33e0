"""The ready line, and the commands that mount what it names."""

from __future__ import annotations

import contextlib

from target.cli.notify import READY, ServiceManager
from target.config import Portal, ServeConfig, format_size
from target.config.model import ADMIN_PORT_DEFAULT
from target.ready import ReadyInfo

LUNS_SHOWN_MAX = 8
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def say_ready(text: str, manager: ServiceManager) -> None:
    """On stdout, and to ``manager``; if stdout is closed, that is no reason not to serve."""
    manager.say(READY)
    with contextlib.suppress(OSError):
        print(text, flush=True)


def ready_text(ready: ReadyInfo, config: ServeConfig, admin: Portal | None = None) -> str:
    """A line that begins ``lunmesh ready``, then what to type next.  Never a secret."""
    portals = ", ".join(map(str, ready.portals))
    lines = [f"lunmesh ready: {ready.iqn} on {portals} ({_luns(ready)})"]
    portal = _reachable(ready.portals[0])
    node = f"iscsiadm -m node -T {ready.iqn} -p {portal}"
    discover = f"iscsiadm -m discovery -t sendtargets -p {portal}"
    linux = [discover, *_iscsiadm_chap(config, node), f"{node} --login"]
    # By LUN, those of the node's own target come first.
    lun = ready.luns[0].lun if ready.luns else "0"
    tools = [
        ("Linux", linux),
        ("QEMU", [f"qemu-img info iscsi://{portal}/{ready.iqn}/{lun}"]),
        ("libiscsi", [f"iscsi-ls -s iscsi://{portal}"]),
    ]
    if config.chap:
        # Both libraries read these; in the URL a secret would show in the process list.
        export = f"export LIBISCSI_CHAP_USERNAME={_user(config)} LIBISCSI_CHAP_PASSWORD=SECRET"
        tools.insert(1, ("CHAP", [export]))
    if admin is not None:
        where = "" if admin.port == ADMIN_PORT_DEFAULT else f" --admin {admin}"
        tools.append(("Volumes", [f"lunmesh volume list{where}"]))
    for name, commands in tools:
        for index, command in enumerate(commands):
            lines.append(f"  {name if index == 0 else '':<9}{command}")
    return "\n".join(lines)


def _iscsiadm_chap(config: ServeConfig, node: str) -> list[str]:
    if not config.chap:
        return []
    settings = {"authmethod": "CHAP", "username": _user(config), "password": "SECRET"}
    if config.mutual_chap:
        settings |= {"username_in": config.mutual_chap.user, "password_in": "SECRET"}
    update = "".join(f" -n node.session.auth.{key} -v {value}" for key, value in settings.items())
    return [f"{node} -o update{update}"]


def _user(config: ServeConfig) -> str:
    return config.chap[0].user if len(config.chap) == 1 else "USER"


def _luns(ready: ReadyInfo) -> str:
    shown = [
        f"LUN {lun.lun} {lun.name} {format_size(lun.size_bytes)}{' read-only' * lun.readonly}"
        for lun in ready.luns[:LUNS_SHOWN_MAX]
    ]
    more = len(ready.luns) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _reachable(portal: Portal) -> Portal:
    """Where this machine reaches a portal that listens on every address."""
    return Portal(_WILDCARDS.get(portal.host, portal.host), portal.port)
