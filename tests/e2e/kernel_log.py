"""Which lines of the guest's kernel log are complaints about the target.

Everything that the kernel logs as a warning or worse is one, and so is anything that reads like
one at a lower level, except what the emulated machine itself causes and what a healthy target
must cause. While a test restarts the target (between two marks that it writes into the log) the
kernel may also say that it lost the connection; it may never say that a command failed. While it
changes volumes the kernel may say that it was told, and that a disk that was deleted is gone. While
it takes away one of several paths commands may fail on that path, to be sent through another; none
may fail on the device-mapper device that joins them.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.vm import VirtualMachine

WARNING = 4
OUTAGE_BEGINS = "lunmesh-e2e: outage begins"
OUTAGE_ENDS = "lunmesh-e2e: outage ends"
PATH_OUTAGE_BEGINS = "lunmesh-e2e: path outage begins"
PATH_OUTAGE_ENDS = "lunmesh-e2e: path outage ends"
CHANGE_BEGINS = "lunmesh-e2e: change begins"
CHANGE_ENDS = "lunmesh-e2e: change ends"

_LINE = re.compile(r"<(\d+)>\[[ .\d]+\] (.*)")
_READS_LIKE_ONE = re.compile(
    r"I/O error|blk_update_request|\bunexpected|conn error|cache data failed|tim(?:ing|ed) out"
    r"|\bfail|\berror|\binvalid|\bcorrupt|\boffline|\breject|\bsense key|\babort|hung task"
    r"|not a multiple|assuming drive cache",
    re.IGNORECASE,
)
# A new I_T nexus starts with the first unit attention (SAM-5, 5.14), one whose registration another
# initiator has preempted has the second (2Ah, SPC-4 5.13.11), and the kernel prints them.  A path
# that had failed may come back after its outage.
_HEALTHY = re.compile(
    r"Power-on or device reset occurred|: Parameters changed$|re-mounted|no debug enabled"
    r"|multipath: \d+:\d+: Reinstating path"
)
# An emulated CPU on a busy machine is late; that says nothing about a target.
_EMULATION = re.compile(r"clocksource|rcu|hrtimer|perf: interrupt|soft lockup|workqueue|tsc:")
_OUTAGE = re.compile(
    r"detected conn error|ping timeout|[Tt]arget requests? logout|connection.*closed"
)
_PATH_OUTAGE = re.compile(
    _OUTAGE.pattern + r"|Asymmetric access state changed|session recovery timed out"
    r"|multipath: \d+:\d+: Failing path"
    r"|^I/O error, dev sd|recoverable transport error, dev sd|rejecting I/O to offline device"
    r"|FAILED Result: hostbyte=DID_(?:TRANSPORT_|NO_CONNECT|BUS_BUSY)|callbacks suppressed"
)
_CHANGE = re.compile(r"Capacity data has changed|LUN assignments on this target have changed")


def begin(vm: VirtualMachine) -> None:
    """Forget what was logged so far."""
    vm.sh("dmesg -c > /dev/null")


@contextmanager
def outage(vm: VirtualMachine) -> Iterator[None]:
    """Inside, the connection may be lost. Leave it only after I/O has worked again."""
    vm.sh(f"echo '<5>{OUTAGE_BEGINS}' > /dev/kmsg")
    yield
    vm.sh(f"echo '<5>{OUTAGE_ENDS}' > /dev/kmsg")


@contextmanager
def path_outage(vm: VirtualMachine) -> Iterator[None]:
    """Inside, paths may be lost, but never all of them for those who use the joined device."""
    vm.sh(f"echo '<5>{PATH_OUTAGE_BEGINS}' > /dev/kmsg")
    yield
    vm.sh(f"echo '<5>{PATH_OUTAGE_ENDS}' > /dev/kmsg")


@contextmanager
def change(vm: VirtualMachine, gone: str = "") -> Iterator[None]:
    """Inside, volumes are made, grown and deleted; ``gone`` is the device file of such a one."""
    vm.sh(f"echo '<5>{CHANGE_BEGINS} {gone.removeprefix('/dev/')}' > /dev/kmsg")
    yield
    vm.sh(f"echo '<5>{CHANGE_ENDS}' > /dev/kmsg")


def complaints(vm: VirtualMachine) -> list[str]:
    return find_complaints(vm.sh("dmesg -r"))


def find_complaints(raw_log: str) -> list[str]:
    """The complaints in a log as `dmesg -r` prints it: "<priority>[time] text"."""
    found = []
    outage: list[re.Pattern[str]] = []
    change: list[re.Pattern[str]] = []
    for priority, text in _LINE.findall(raw_log):
        if OUTAGE_BEGINS in text:
            outage = [_OUTAGE]
        elif PATH_OUTAGE_BEGINS in text:
            outage = [_PATH_OUTAGE]
        elif OUTAGE_ENDS in text or PATH_OUTAGE_ENDS in text:
            outage = []
        elif CHANGE_BEGINS in text or CHANGE_ENDS in text:
            _, began, gone = text.partition(CHANGE_BEGINS)
            change = [_CHANGE] if began else []
            if gone.strip():
                change.append(re.compile(rf"\[{gone.strip()}\]|I/O error, dev {gone.strip()},"))
        elif int(priority) % 8 <= WARNING or _READS_LIKE_ONE.search(text):
            excuses = [_HEALTHY, _EMULATION, *outage, *change]
            if not any(excuse.search(text) for excuse in excuses):
                found.append(text)
    return found
