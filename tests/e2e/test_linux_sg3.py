"""sg3-utils through the Linux kernel: what the disk says of itself, and how it takes commands.

Every command runs on both logical block sizes, and all of a table run before the verdict, so that
one run shows everything that is wrong.
"""

import re

import pytest

from tests.e2e.conftest import Connect, ServerFactory
from tests.e2e.vm import VirtualMachine
from tests.support import cdb
from tests.support import reservations as pr
from tests.support.initiator import Initiator

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

DISK_BYTES = 64 << 20
TWO_DISKS = ["disk0=64M", "disk1=64M,block=4096"]
VPD_PAGES = (0x00, 0x80, 0x83, 0x86, 0xB0, 0xB1, 0xB2)

# Exit statuses of sg3-utils ("man sg3_utils").
OK, ILLEGAL_REQUEST, UNIT_ATTENTION, INVALID_OPCODE = 0, 5, 6, 9
MISCOMPARE, LBA_OUT_OF_RANGE, RESERVATION_CONFLICT = 14, 22, 24
GOOD, CHECK_CONDITION, CONFLICT = 0x00, 0x02, 0x18  # status of a command

# (command, what its output must match); {block} and {blocks} are the disk's.
SAYS_OF_ITSELF = [
    ("sg_inq", r"version=0x0[5-7].*CmdQue=1.*Peripheral device type: disk.*serial number: \s*\S"),
    # Every page of the list, decoded by name: an undecodable or missing one makes it fail.
    ("sg_vpd --all", "Supported VPD pages"),
    *[(f"sg_vpd --page={page:#04x}", "VPD page") for page in VPD_PAGES],
    ("sg_vpd --page=0x00", r"\[sn\].*\[di\].*\[ei\].*\[bl\].*\[bdc\].*\[lbpv\]"),
    ("sg_vpd --page=0x80", r"number: \s*\S"),
    ("sg_vpd --page=0x83", r"designator type: NAA.*0x[36]"),
    ("sg_vpd --page=0xb0", r"compare and write length: [1-9].*unmap LBA count: [1-9]"),
    ("sg_vpd --page=0xb2", r"LBPU\): 1.*LBPWS\): 1.*LBPRZ\): 1.*thin provisioned"),
    ("sg_readcap", "blocks={blocks}.*block length={block} bytes"),
    ("sg_readcap --16", "lbpme=1, lbprz=1.*blocks={blocks}.*block length={block} bytes"),
    ("sg_modes --all", "Caching.*Control.*Informational exceptions"),
    ("sg_modes --six --all", "Caching.*Control.*Informational exceptions"),
    *[(f"sg_modes --page=8 --control={control}", "Caching") for control in (0, 1, 2)],
    ("sg_luns", "0000000000000000.*0001000000000000"),
    ("sg_opcodes", r"Read\(10\).*Unmap.*Read\(16\).*Compare and write.*Write same\(16\)"),
    ("sg_opcodes --tmf", "Abort task.*Logical unit reset"),
    ("sg_opcodes --rctd", r"Read\(10\)"),
    *[
        (f"sg_opcodes --opcode={opcode}", "Command is supported")
        for opcode in ("0x28", "0x2a", "0x42", "0x88", "0x89", "0x93", "0x9e,0x10", "0x9e,0x12")
    ],
    ("sg_opcodes --opcode=0xff", "NOT supported"),
    ("sg_logs", "Supported log pages"),
    ("sg_logs --all", "Supported log pages.*Temperature"),
    ("sg_turs", ""),
    ("sg_requests", "No Sense"),
    ("sg_requests --desc", "No Sense"),
]

# (command, exit status)
TAKES_COMMANDS = [
    ("sg_sync", OK),
    ("sg_sync --16", OK),
    ("sg_verify --lba=0 --count=8", OK),
    ("sg_verify --16 --lba=0 --count=8", OK),
    ("sg_get_lba_status --lba=0", OK),
    ("sg_unmap --lba=0 --num=8 --force", OK),
    ("sg_write_same --10 --lba=0 --num=8 --in=/dev/zero --xferlen={block}", OK),
    ("sg_write_same --16 --lba=0 --num=8 --in=/dev/zero --xferlen={block}", OK),
    ("sg_write_same --16 --unmap --lba=0 --num=8 --in=/dev/zero --xferlen={block}", OK),
    ("sg_write_same --16 --ndob --lba=0 --num=8", OK),
    ("sg_compare_and_write --lba=0 --num=1 --in=/tmp/zero-then-one --xferlen={pair}", OK),
    ("sg_compare_and_write --lba=0 --num=1 --in=/tmp/zero-then-one --xferlen={pair}", MISCOMPARE),
    ("sg_start --start", OK),
    ("sg_prevent --allow", OK),
    ("sg_senddiag --test", OK),
    ("sg_reset --device", OK),
    # A logical unit reset leaves every nexus a unit attention, the one that asked for it too.
    ("sg_turs", UNIT_ATTENTION),
    ("sg_turs", OK),
    ("sg_vpd --page=0xee --force", ILLEGAL_REQUEST),
    ("sg_logs --page=0x3e", ILLEGAL_REQUEST),
    ("sg_verify --16 --lba={blocks} --count=1", LBA_OUT_OF_RANGE),
    ("sg_unmap --lba={blocks} --num=1 --force", LBA_OUT_OF_RANGE),
    ("sg_write_same --16 --unmap --lba={blocks} --num=1 --in=/dev/zero", LBA_OUT_OF_RANGE),
    ("sg_raw {disk} ff 00 00 00 00 00 #", INVALID_OPCODE),
]

both_luns = pytest.mark.parametrize(("lun", "block"), [(0, 512), (1, 4096)], ids=["512", "4096"])


@both_luns
def test_the_disk_describes_itself(
    vm: VirtualMachine, serve: ServerFactory, connect: Connect, lun: int, block: int
) -> None:
    initiator = connect(serve(TWO_DISKS))
    initiator.discover()
    wrong = []
    with initiator.session(disks=2) as disks:
        for command, pattern in SAYS_OF_ITSELF:
            result = vm.run(f"{command} {disks[lun]}")
            wanted = pattern.format(block=block, blocks=DISK_BYTES // block)
            if result.status != OK or not re.search(wanted, result.output, re.DOTALL):
                wrong.append(f"{command}: status {result.status}\n{result.output}")
    assert not wrong, "\n".join(wrong)


@both_luns
def test_single_commands_end_as_they_should(
    vm: VirtualMachine, serve: ServerFactory, connect: Connect, lun: int, block: int
) -> None:
    initiator = connect(serve(TWO_DISKS))
    initiator.discover()
    wrong = []
    with initiator.session(disks=2) as disks:
        vm.sh(
            f"head -c {block} /dev/zero > /tmp/zero-then-one; "
            f"head -c {block} /dev/zero | tr '\\0' '\\1' >> /tmp/zero-then-one"
        )
        names = {"block": block, "blocks": DISK_BYTES // block, "pair": 2 * block}
        for template, status in TAKES_COMMANDS:
            command = template.format(disk=disks[lun], **names)
            result = vm.run(f"{command} {disks[lun]}")
            if result.status != status:
                wrong.append(f"{command}: status {result.status}, not {status}\n{result.output}")
    assert not wrong, "\n".join(wrong)


KEY, RIVAL = 0xABCD, 0x1234
WRITE_EXCLUSIVE_RO = 5

# (command, what its output must match); sg_persist decodes what it reads.
RESERVES = [
    ("--in --report-capabilities", "SIP_C.*: 1.*ATP_C.*: 1.*PTPL_C.*: 1.*Exclusive Access: 1"),
    (f"--out --register --param-sark={KEY:#x} --param-aptpl", ""),
    ("--in --read-keys", f"1 registered reservation key.*{KEY:#x}"),
    (f"--out --reserve --param-rk={KEY:#x} --prout-type={WRITE_EXCLUSIVE_RO}", ""),
    ("--in --read-reservation", f"Key={KEY:#x}.*Write Exclusive, registrants only"),
    ("--in --read-full-status", rf"Key={KEY:#x}.*Relative port address: 0x1.*iqn\.\S+,i,0x"),
]


def test_persistent_reservations(
    vm: VirtualMachine, serve: ServerFactory, connect: Connect
) -> None:
    """The guest reserves; another initiator, outside of it, is barred, and preempts it."""
    server = serve(TWO_DISKS)
    initiator = connect(server)
    initiator.discover()
    with (
        initiator.session(disks=2) as disks,
        Initiator(server.host, server.port, target=server.iqn) as rival,
    ):
        rival.login()
        while rival.command(cdb.TEST_UNIT_READY).status == CHECK_CONDITION:
            pass
        for command, pattern in RESERVES:
            result = vm.run(f"sg_persist {command} {disks[0]}")
            assert result.status == OK, result.output
            assert re.search(pattern, result.output, re.DOTALL), result.output
        assert rival.command(cdb.write10(0, 1), data_out=bytes(512)).status == CONFLICT
        for action, data in (
            (pr.REGISTER, pr.keys(0, RIVAL)),
            (pr.PREEMPT_AND_ABORT, pr.keys(RIVAL, KEY)),
        ):
            preempt = pr.pr_out(action, WRITE_EXCLUSIVE_RO)
            assert rival.command(preempt, data_out=data).status == GOOD
        vm.run(f"sg_turs {disks[0]}")  # takes the unit attention
        result = vm.run(f"sg_persist --in --read-keys {disks[0]}")
        assert f"{RIVAL:#x}" in result.output
        assert f"{KEY:#x}" not in result.output
        barred = f"sg_write_same --10 --lba=0 --num=8 --in=/dev/zero --xferlen=512 {disks[0]}"
        assert vm.run(barred).status == RESERVATION_CONFLICT
        assert rival.command(cdb.write10(0, 1), data_out=bytes(512)).status == GOOD
        clear = rival.command(pr.pr_out(pr.CLEAR), data_out=pr.keys(RIVAL))
        assert clear.status == GOOD
