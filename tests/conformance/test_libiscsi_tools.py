"""libiscsi's small programs show the target and its disks as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.support.backing import EMBEDDED, WORKERS, backed
from tests.support.lunmesh_server import LunmeshServer
from tests.support.tools import run_tool

MIB = 1 << 20
SIZES = {0: 100 * MIB, 1: 64 * MIB, 2: 10 * MIB}
BLOCKS = {0: 512, 1: 4096, 2: 512}
VOLUMES = ["disk0=100M", "disk1=64M,block=4096", "disk2=10M,readonly"]
SECRET = "a-secret-of-its-own"


@pytest.fixture(scope="module", params=[EMBEDDED, WORKERS])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LunmeshServer]:
    with backed(request.param, tmp_path_factory.mktemp("tools"), VOLUMES) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LunmeshServer]:
    """A target that wants CHAP."""
    folder, flags = tmp_path_factory.mktemp("chap"), ("--chap", f"alice:{SECRET}")
    with LunmeshServer(folder, VOLUMES, arguments=flags) as server:
        yield server


def fields(output: str) -> dict[str, str]:
    """The lines "name:value" that these programs print."""
    return dict(re.findall(r"^([^:\n]+): ?(.*)$", output, re.M))


def inquiry(server: LunmeshServer, page: int | None = None, lun: int = 0) -> str:
    which = [] if page is None else ["-e", "1", "-c", str(page)]
    return run_tool(["iscsi-inq", *which, server.url(lun)])


def test_ls_shows_the_target_and_its_luns(server: LunmeshServer) -> None:
    lines = run_tool(["iscsi-ls", "-s", f"iscsi://{server.portal}"]).splitlines()
    assert lines[0] == f"Target:{server.iqn} Portal:{server.portal},1"
    found = [re.fullmatch(r"Lun:(\d+) +Type:(\w+) \(Size:(\d+)M\)", line) for line in lines[1:]]
    # It multiplies the last block's address, not their number: one MiB too few, in whole ones.
    assert [match and match.groups() for match in found] == [
        (str(lun), "DIRECT_ACCESS", str(size // MIB - 1)) for lun, size in SIZES.items()
    ]


def test_standard_inquiry(server: LunmeshServer) -> None:
    said = fields(inquiry(server))
    assert said["Peripheral Qualifier"] == "CONNECTED"
    assert said["Peripheral Device Type"] == "DIRECT_ACCESS"
    assert said["Removable"] == "0"
    assert said["CmdQue"] == "1"
    assert said["ReponseDataFormat"] == "2"  # as the program spells it
    assert said["Vendor"].strip() == "LUNMESH"


def test_a_lun_that_is_not_there(server: LunmeshServer) -> None:
    assert "LOGICAL_UNIT_NOT_SUPPORTED" in run_tool(["iscsi-inq", server.url(9)], check=False)


def test_the_list_of_vpd_pages(server: LunmeshServer) -> None:
    pages = [int(page, 16) for page in re.findall(r"^Page:(0x\w+)", inquiry(server, 0x00), re.M)]
    assert pages == sorted(pages)
    assert {0x00, 0x80, 0x83, 0x86, 0xB0, 0xB1, 0xB2} <= set(pages)


# Page 0x86 is not here: libiscsi 1.19 has no parser for it.


def test_each_disk_has_a_serial_number(server: LunmeshServer) -> None:
    serials = [fields(inquiry(server, 0x80, lun))["Unit Serial Number"] for lun in SIZES]
    assert len(set(serials)) == len(SIZES)
    assert all(re.fullmatch(r"\[\S+\]", serial) for serial in serials)


def test_device_identification(server: LunmeshServer) -> None:
    page = inquiry(server, 0x83)
    designators = [fields(part) for part in page.split("DEVICE DESIGNATOR #")[1:]]
    kinds = {(d["Association"], d["Designator Type"].partition(" ")[2]) for d in designators}
    assert {
        ("(0) LOGICAL_UNIT", "NAA"),
        ("(1) TARGET_PORT", "RELATIVE_TARGET_PORT"),
        ("(1) TARGET_PORT", "SCSI_NAME_STRING"),
    } <= kinds
    assert server.iqn in page


@pytest.mark.parametrize("lun", SIZES)
def test_block_limits_are_finite(server: LunmeshServer, lun: int) -> None:
    """libiscsi takes a limit of all ones for -1."""
    limits = {name: int(value) for name, value in fields(inquiry(server, 0xB0, lun)).items()}
    for name in (
        "maximum transfer length",
        "optimal transfer length",
        "maximum unmap lba count",
        "maximum unmap block descriptor count",
        "maximum write same length",
        "maximum compare and write length",
    ):
        assert 0 < limits[name] < 1 << 31, name
    assert limits["optimal transfer length"] <= limits["maximum transfer length"]


def test_block_device_characteristics(server: LunmeshServer) -> None:
    # 1 stands for "does not rotate".
    assert fields(inquiry(server, 0xB1))["Medium Rotation Rate"] == "1RPM"


def test_thin_provisioning(server: LunmeshServer) -> None:
    said = fields(inquiry(server, 0xB2))
    assert [said[name] for name in ("lbpu", "lbpws", "lbpws10", "lbprz")] == ["1"] * 4
    assert said["provisioning type"] == "2"


@pytest.mark.parametrize("lun", SIZES)
def test_read_capacity(server: LunmeshServer, lun: int) -> None:
    said = fields(run_tool(["iscsi-readcapacity16", server.url(lun)]))
    size, block = SIZES[lun], BLOCKS[lun]
    assert said["RETURNED LOGICAL BLOCK ADDRESS"] == str(size // block - 1)
    assert said["LOGICAL BLOCK LENGTH IN BYTES"] == str(block)
    assert said["Total size"] == str(size)
    assert said["LBPME"] == "1 LBPRZ:1"
    assert said["P_TYPE"] == "0 PROT_EN:0"
    assert run_tool(["iscsi-readcapacity16", "-s", server.url(lun)]).strip() == str(size)


def test_software_write_protection_can_be_set_and_taken_back(server: LunmeshServer) -> None:
    def protected() -> str:
        return fields(run_tool(["iscsi-swp", server.url()]))["SWP"]

    assert protected() == "0"
    run_tool(["iscsi-swp", "-s", "on", server.url()])
    assert protected() == "1"
    run_tool(["iscsi-swp", "-s", "off", server.url()])
    assert protected() == "0"


@pytest.mark.parametrize("lun", SIZES)
@pytest.mark.parametrize("order", ["sequential", "random"])
def test_perf_reads_without_an_error(server: LunmeshServer, lun: int, order: str) -> None:
    how = ["-r"] if order == "random" else []
    # It stops by itself at the first error, unless told to ignore errors.
    output = run_tool(["iscsi-perf", *how, "-m", "32", "-b", "8", "-t", "1", server.url(lun)])
    assert "finished." in output
    assert re.search(r"iops average [1-9]\d*", output)


def test_chap_lets_in_who_knows_the_secret(guarded: LunmeshServer) -> None:
    def url(credentials: str) -> str:
        return guarded.url().replace("iscsi://", f"iscsi://{credentials}")

    assert "LUNMESH" in run_tool(["iscsi-inq", url(f"alice%{SECRET}@")])
    for wrong in ("", f"alice%{SECRET}x@", f"bob%{SECRET}@"):
        output = run_tool(["iscsi-inq", url(wrong)], check=False)
        assert "Authentication failure(513)" in output


def test_chap_and_the_list_of_luns(guarded: LunmeshServer) -> None:
    portal = f"iscsi://alice%{SECRET}@{guarded.portal}"
    assert run_tool(["iscsi-ls", "-s", portal]).count("DIRECT_ACCESS") == len(SIZES)
