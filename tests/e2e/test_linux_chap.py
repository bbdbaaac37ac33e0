"""The Linux initiator authenticates itself, and the target, with CHAP; so does its guide."""

import re
import shlex

import pytest

from tests.e2e import kernel_log
from tests.e2e.conftest import Connect, ServerFactory
from tests.e2e.initiator import LinuxInitiator
from tests.e2e.vm import VirtualMachine
from tests.support.doc_commands import guest_commands
from tests.support.lunmesh_server import PROJECT_ROOT
from tests.support.volume_command import VolumeCommand

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

SECRET = "initiator-secret"
TARGET_SECRET = "another-target-secret"
CHAP = ("--chap", f"alice:{SECRET}")
MUTUAL = (*CHAP, "--mutual-chap", f"lunmesh:{TARGET_SECRET}")
ALGORITHMS = ("MD5", "SHA1", "SHA256", "SHA3-256")
# Exit status of iscsiadm: the target refused (ISCSI_ERR_LOGIN_AUTH_FAILED), or the initiator itself
# broke off (ISCSI_ERR_FATAL_LOGIN).
REFUSED = 24
DISTRUSTED = 19


def settings(
    secret: str = SECRET, target_secret: str | None = None, algorithm: str | None = None
) -> dict[str, str]:
    chosen = {"authmethod": "CHAP", "username": "alice", "password": secret}
    if target_secret is not None:
        chosen |= {"username_in": "lunmesh", "password_in": target_secret}
    if algorithm is not None:
        chosen["chap_algs"] = algorithm
    return {f"node.session.auth.{name}": value for name, value in chosen.items()}


def use_disk(vm: VirtualMachine, initiator: LinuxInitiator) -> None:
    with initiator.session(disks=1) as (disk,):
        vm.sh(f"dd if=/dev/urandom of=/tmp/data bs=64k count=1; dd if=/tmp/data of={disk} bs=64k")
        vm.sh(f"dd if={disk} bs=64k count=1 iflag=direct | cmp - /tmp/data")


def refused_login(vm: VirtualMachine, initiator: LinuxInitiator) -> int:
    """The status of a login that fails, after which the connection is closed, as it should be."""
    with kernel_log.outage(vm):
        return initiator.try_login().status


@pytest.mark.parametrize("mutual", [False, True], ids=["one-way", "mutual"])
def test_the_right_secrets_log_in(
    vm: VirtualMachine, serve: ServerFactory, connect: Connect, mutual: bool
) -> None:
    initiator = connect(serve(["disk0=64M"], *(MUTUAL if mutual else CHAP)))
    initiator.add()
    target_secret = TARGET_SECRET if mutual else None
    for algorithm in ALGORITHMS:
        initiator.configure(settings(target_secret=target_secret, algorithm=algorithm))
        use_disk(vm, initiator)


def test_an_unknown_initiator_is_refused(
    vm: VirtualMachine, serve: ServerFactory, connect: Connect
) -> None:
    initiator = connect(serve(["disk0=64M"], *CHAP))
    initiator.add()
    assert refused_login(vm, initiator) == REFUSED
    initiator.configure(settings(secret="not-the-secret-at-all"))
    assert refused_login(vm, initiator) == REFUSED


def test_a_target_that_does_not_know_its_secret_is_refused(
    vm: VirtualMachine, serve: ServerFactory, connect: Connect
) -> None:
    initiator = connect(serve(["disk0=64M"], *MUTUAL))
    initiator.add()
    initiator.configure(settings(target_secret="not-the-targets-secret"))
    assert refused_login(vm, initiator) == DISTRUSTED
    # It was the initiator that refused: with the right secret it gets in.
    initiator.configure(settings(target_secret=TARGET_SECRET))
    use_disk(vm, initiator)


def test_the_secrets_are_not_in_the_log(serve: ServerFactory, connect: Connect) -> None:
    server = serve(["disk0=64M"], *MUTUAL)
    initiator = connect(server)
    initiator.add()
    initiator.configure(settings(target_secret=TARGET_SECRET))
    with initiator.session(disks=1):
        pass
    server.stop()
    logged = server.stderr() + "\n".join(server.output)
    assert SECRET not in logged
    assert TARGET_SECRET not in logged


def test_the_guide_for_linux_leads_there_and_back(
    vm: VirtualMachine, serve: ServerFactory, connect: Connect
) -> None:
    server = serve(["disk0=64M"], *CHAP)
    initiator = connect(server)
    known = {"PORTAL": server.portal, "IQN": server.iqn, "SECRET": SECRET}
    blocks = guest_commands((PROJECT_ROOT / "docs" / "guides" / "linux.md").read_text())
    assert len(blocks) == 6
    size = 64 << 20
    with kernel_log.change(vm):
        for block in blocks:
            assert set(re.findall(r"\$(\w+)", block)) <= set(known)
            if "--rescan" in block:
                VolumeCommand(server).good("resize", "disk0", "96M")
                size = 96 << 20
            given = "".join(f"{name}={shlex.quote(value)}\n" for name, value in known.items())
            vm.sh(given + block)
            if "--login" in block:
                known["DISK"] = initiator.rescan(lun=0)
            if "--login" in block or "--rescan" in block:
                assert vm.sh(f"blockdev --getsize64 {known['DISK']}").strip() == str(size)
    assert initiator.try_login().status  # there is no record of it any more
