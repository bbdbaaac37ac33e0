"""The judge of the guest's kernel log sees what it must, and excuses no more than that."""

from tests.e2e.kernel_log import (
    CHANGE_BEGINS,
    CHANGE_ENDS,
    OUTAGE_BEGINS,
    OUTAGE_ENDS,
    PATH_OUTAGE_BEGINS,
    PATH_OUTAGE_ENDS,
    find_complaints,
)

QUIET = """\
<6>[    5.082684] scsi host0: iSCSI Initiator over TCP/IP
<5>[    5.507993] scsi 0:0:0:1: Direct-Access     LUNMESH  DISK             0001 PQ: 0 ANSI: 7
<4>[    5.525063] sd 0:0:0:1: Power-on or device reset occurred
<5>[    5.531759] sd 0:0:0:1: [sda] Write cache: enabled, read cache: enabled, supports DPO and FUA
<5>[    5.576490] sd 0:0:0:1: [sda] Attached SCSI disk
<6>[    5.996640] EXT4-fs (sda): mounted filesystem with ordered data mode. Quota mode: none.
<4>[    9.100000] clocksource: timekeeping watchdog on CPU1: Marking clocksource 'tsc' as unstable
"""
LOST = "<3>[   20.000000]  connection1:0: detected conn error (1020)\n"


def test_a_healthy_session_is_no_complaint() -> None:
    assert find_complaints(QUIET) == []


def test_each_complaint_is_found_whatever_its_level() -> None:
    complaints = [
        "<3>[    6.0] I/O error, dev sda, sector 2048 op 0x1:(WRITE) flags 0x800 phys_seg 1",
        "<5>[    6.1] sd 0:0:0:0: [sda] Asking for cache data failed",
        "<4>[    6.2] sd 0:0:0:0: [sda] Optimal transfer size 8388608 bytes not a multiple",
        "<6>[    6.3] sd 0:0:0:0: [sda] tag#5 Sense Key : Illegal Request [current]",
        "<6>[    6.4]  session1: session recovery timed out after 120 secs",
        "<2>[    6.5] EXT4-fs (sda): error count since last fsck: 1",
    ]
    assert len(find_complaints(QUIET + "\n".join(complaints))) == len(complaints)


def test_a_lost_connection_is_excused_in_an_outage_only() -> None:
    begins, ends = f"<13>[ 19.0] {OUTAGE_BEGINS}\n", f"<13>[ 30.0] {OUTAGE_ENDS}\n"
    assert find_complaints(begins + LOST + ends) == []
    assert len(find_complaints(LOST + begins + ends)) == 1
    assert len(find_complaints(begins + ends + LOST)) == 1


def test_a_failed_command_is_a_complaint_even_in_an_outage() -> None:
    begins = f"<13>[ 19.0] {OUTAGE_BEGINS}\n"
    assert find_complaints(begins + LOST + "<3>[ 20.1] I/O error, dev sda, sector 0") != []


def test_a_disk_that_is_deleted_is_excused_and_no_other() -> None:
    told = "<4>[ 20.0] sd 0:0:0:0: Capacity data has changed\n"
    gone = "<3>[ 20.1] I/O error, dev sdb, sector 0\n<6>[ 20.1] sd 0:0:0:1: [sdb] Sense Key : x\n"
    begins, ends = f"<13>[ 19.0] {CHANGE_BEGINS} sdb\n", f"<13>[ 30.0] {CHANGE_ENDS}\n"
    assert find_complaints(begins + told + gone + ends) == []
    assert len(find_complaints(begins + gone.replace("sdb", "sda") + ends)) == 2
    assert len(find_complaints(begins + ends + told + gone)) == 3
    assert len(find_complaints(begins.replace("sdb", "") + told + gone + ends)) == 2


def test_while_a_path_is_away_commands_fail_on_it_and_not_on_the_joined_device() -> None:
    begins, ends = f"<13>[ 19.0] {PATH_OUTAGE_BEGINS}\n", f"<13>[ 30.0] {PATH_OUTAGE_ENDS}\n"
    path = (
        f"{LOST}"
        "<3>[ 20.1] I/O error, dev sda, sector 7720 op 0x0:(READ) flags 0x4200 phys_seg 13\n"
        "<4>[ 20.2] device-mapper: multipath: 254:0: Failing path 8:0.\n"
    )
    joined = "<3>[ 20.3] I/O error, dev dm-0, sector 7720 op 0x0:(READ) flags 0x0 phys_seg 1\n"
    assert find_complaints(begins + path + ends) == []
    assert len(find_complaints(begins + path + joined + ends)) == 1
    assert len(find_complaints(begins + ends + path)) == 3
