"""Logins as real initiators do them: their keys, in their order.

libiscsi's and open-iscsi's follow their sources (lib/login.c, usr/login.c), and libiscsi's were
compared with what iscsi-inq 1.19 sends.  Windows' and ESXi's follow what is commonly said of them
and were not recorded.
"""

from __future__ import annotations

import pytest

from target.iscsi import text
from target.iscsi.chap import ALGORITHMS, ChapPolicy, Secret, respond
from target.iscsi.parameters import SessionParameters
from tests.support.iscsi_login import (
    FULL,
    OPERATIONAL,
    SECURITY,
    TARGET,
    FakePolicy,
    Initiator,
)

USER, SECRET, OUR_NAME, OUR_SECRET = "bob", "secretsecret1", "tgt", "othersecret22"
ONE_WAY = ChapPolicy({USER: Secret(SECRET)})
MUTUAL = ChapPolicy({USER: Secret(SECRET)}, (OUR_NAME, Secret(OUR_SECRET)))

LIBISCSI_NAMES = [
    ("InitiatorName", "iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-inq"),
    ("TargetName", TARGET),
    ("SessionType", "Normal"),
]
LIBISCSI_PARAMETERS = [
    ("HeaderDigest", "None,CRC32C"),
    ("DataDigest", "None"),
    ("InitialR2T", "No"),
    ("ImmediateData", "Yes"),
    ("MaxBurstLength", "262144"),
    ("FirstBurstLength", "262144"),
    ("DefaultTime2Wait", "2"),
    ("DefaultTime2Retain", "0"),
    ("MaxOutstandingR2T", "1"),
    ("ErrorRecoveryLevel", "0"),
    ("IFMarker", "No"),
    ("OFMarker", "No"),
    ("MaxConnections", "1"),
    ("MaxRecvDataSegmentLength", "262144"),
    ("DataPDUInOrder", "Yes"),
    ("DataSequenceInOrder", "Yes"),
]
LIBISCSI_AGREED = SessionParameters(
    max_recv_data_segment_length=262144,
    max_send_data_segment_length=262144,
    initial_r2t=False,
    default_time2retain=0,
)


def proof(host: Initiator, secret: str, algorithm: int, *, upper: bool = False) -> str:
    """CHAP_R to the challenge in the last response."""
    keys = host.keys()
    assert keys["CHAP_A"] == str(algorithm)
    digest = respond(
        ALGORITHMS[algorithm],
        int(keys["CHAP_I"]),
        secret.encode(),
        text.binary(keys["CHAP_C"], 1024),
    ).hex()
    return "0x" + (digest.upper() if upper else digest)


def test_libiscsi_goes_direct_to_operational() -> None:
    host = Initiator(cid=0)
    host.send(OPERATIONAL, [*LIBISCSI_NAMES, *LIBISCSI_PARAMETERS], nsg=FULL)
    found = host.keys()
    assert found["HeaderDigest"] == "None", "the first supported value of the offer"
    assert found["FirstBurstLength"] == "65536"
    assert (found["IFMarker"], found["OFMarker"]) == ("No", "No")
    assert host.complete().parameters == LIBISCSI_AGREED


@pytest.mark.parametrize("mutual", [False, True])
def test_libiscsi_with_chap_says_its_names_twice(mutual: bool) -> None:
    host = Initiator(FakePolicy(chap=MUTUAL if mutual else ONE_WAY))
    host.send(SECURITY, [*LIBISCSI_NAMES, ("AuthMethod", "CHAP,None")], nsg=OPERATIONAL)
    host.send(SECURITY, [("CHAP_A", "5")])
    keys = [("CHAP_N", USER), ("CHAP_R", proof(host, SECRET, 5, upper=True))]
    challenge = bytes(range(100, 132))
    if mutual:
        keys += [("CHAP_I", "1"), ("CHAP_C", "0x" + challenge.hex().upper())]
    assert host.send(SECURITY, keys, nsg=OPERATIONAL).transit
    if mutual:
        assert host.keys() == {
            "CHAP_N": OUR_NAME,
            "CHAP_R": "0x" + respond("md5", 1, OUR_SECRET.encode(), challenge).hex(),
        }
    host.send(OPERATIONAL, [*LIBISCSI_NAMES, *LIBISCSI_PARAMETERS], nsg=FULL)
    assert host.complete().parameters == LIBISCSI_AGREED
    assert host.complete().identity.user == USER


def test_libiscsi_with_a_user_where_none_is_needed() -> None:
    host = Initiator()
    assert host.send(
        SECURITY, [*LIBISCSI_NAMES, ("AuthMethod", "CHAP,None")], nsg=OPERATIONAL
    ).transit
    assert host.keys()["AuthMethod"] == "None"
    host.send(OPERATIONAL, [*LIBISCSI_NAMES, *LIBISCSI_PARAMETERS], nsg=FULL)
    host.complete()


LINUX_NAMES = [
    ("InitiatorName", "iqn.1993-08.org.debian:01:bffde956c526"),
    ("InitiatorAlias", "guest"),
    ("TargetName", TARGET),
    ("SessionType", "Normal"),
]
LINUX_PARAMETERS = [
    ("HeaderDigest", "None"),
    ("DataDigest", "None"),
    ("DefaultTime2Wait", "2"),
    ("DefaultTime2Retain", "0"),
    ("IFMarker", "No"),
    ("OFMarker", "No"),
    ("ErrorRecoveryLevel", "0"),
    ("InitialR2T", "No"),
    ("ImmediateData", "Yes"),
    ("MaxBurstLength", "16776192"),
    ("FirstBurstLength", "262144"),
    ("MaxOutstandingR2T", "1"),
    ("MaxConnections", "1"),
    ("DataPDUInOrder", "Yes"),
    ("DataSequenceInOrder", "Yes"),
    ("MaxRecvDataSegmentLength", "262144"),
]
# What usr/login.c knows in each stage: any other key makes it give up.
LINUX_KNOWS_IN_SECURITY = {
    *("TargetAlias", "TargetAddress", "TargetPortalGroupTag", "AuthMethod"),
    *("CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R"),
}


def test_linux_goes_through_the_security_stage() -> None:
    host = Initiator(cid=0)
    first = host.send(SECURITY, [*LINUX_NAMES, ("AuthMethod", "None")], nsg=OPERATIONAL)
    assert first.transit
    assert set(host.keys()) <= LINUX_KNOWS_IN_SECURITY
    last = host.send(OPERATIONAL, LINUX_PARAMETERS, nsg=FULL)
    found = host.keys()
    known = {name for name, _ in LINUX_PARAMETERS}
    assert set(found) <= known | {"TargetPortalGroupTag"}
    # It takes these three at exactly this value only.
    for name, value in {"MaxOutstandingR2T": "1", "MaxConnections": "1"}.items():
        assert found[name] == value
    assert found["ErrorRecoveryLevel"] == "0"
    assert last.tsih != 0
    assert host.complete().parameters == SessionParameters(
        max_recv_data_segment_length=262144,
        max_send_data_segment_length=262144,
        max_burst_length=1048576,
        first_burst_length=65536,
        initial_r2t=False,
        default_time2retain=0,
    )


@pytest.mark.parametrize("algorithm", [5, 6, 7, 8])
def test_linux_with_mutual_chap_asks_for_the_stage_once_we_are_proved(algorithm: int) -> None:
    """open-iscsi leaves T clear with its challenge and sends an empty request behind our proof."""
    host = Initiator(FakePolicy(chap=MUTUAL))
    host.send(SECURITY, [*LINUX_NAMES, ("AuthMethod", "CHAP")])
    offer = [str(algorithm), *(str(n) for n in (8, 7, 6, 5) if n != algorithm)]
    host.send(SECURITY, [("CHAP_A", ",".join(offer))])
    challenge = bytes(range(200, 216))
    answer = host.send(
        SECURITY,
        [
            ("CHAP_N", USER),
            ("CHAP_R", proof(host, SECRET, algorithm)),
            ("CHAP_I", "0x2a"),
            ("CHAP_C", "0x" + challenge.hex()),
        ],
    )
    assert not answer.transit
    ours = respond(ALGORITHMS[algorithm], 42, OUR_SECRET.encode(), challenge)
    assert host.keys() == {"CHAP_N": OUR_NAME, "CHAP_R": "0x" + ours.hex()}
    assert host.send(SECURITY, b"", nsg=OPERATIONAL).transit
    assert host.send(OPERATIONAL, LINUX_PARAMETERS, nsg=FULL).transit
    host.complete()


def test_linux_discovery() -> None:
    host = Initiator()
    names = [
        ("InitiatorName", "iqn.1993-08.org.debian:01:bffde956c526"),
        ("InitiatorAlias", "guest"),
        ("SessionType", "Discovery"),
    ]
    assert host.send(SECURITY, [*names, ("AuthMethod", "None")], nsg=OPERATIONAL).transit
    host.send(
        OPERATIONAL,
        [*LINUX_PARAMETERS[:7], ("MaxRecvDataSegmentLength", "32768")],
        nsg=FULL,
    )
    done = host.complete()
    assert done.identity.discovery
    assert done.identity.initiator_alias == "guest"
    assert done.parameters.max_send_data_segment_length == 32768


def test_windows() -> None:
    """It asks for ErrorRecoveryLevel 2 and several connections, and takes what it gets."""
    host = Initiator(cid=1)
    host.send(
        SECURITY,
        [
            ("InitiatorName", "iqn.1991-05.com.microsoft:host.example.org"),
            ("SessionType", "Normal"),
            ("TargetName", TARGET),
            ("AuthMethod", "None"),
        ],
        nsg=OPERATIONAL,
    )
    host.send(
        OPERATIONAL,
        [
            ("HeaderDigest", "None,CRC32C"),
            ("DataDigest", "None,CRC32C"),
            ("ErrorRecoveryLevel", "2"),
            ("InitialR2T", "No"),
            ("ImmediateData", "Yes"),
            ("MaxRecvDataSegmentLength", "65536"),
            ("MaxBurstLength", "262144"),
            ("FirstBurstLength", "65536"),
            ("MaxConnections", "8"),
            ("DataPDUInOrder", "Yes"),
            ("DataSequenceInOrder", "Yes"),
            ("DefaultTime2Wait", "0"),
            ("DefaultTime2Retain", "60"),
            ("MaxOutstandingR2T", "16"),
        ],
        nsg=FULL,
    )
    assert host.complete().parameters == SessionParameters(
        max_recv_data_segment_length=262144,
        max_send_data_segment_length=65536,
        initial_r2t=False,
        max_outstanding_r2t=8,
        default_time2wait=2,
        default_time2retain=0,
        error_recovery_level=0,
        max_connections=1,
    )


def test_esxi() -> None:
    """It sends its parameters in an operational stage of two requests, the last without keys."""
    host = Initiator(cid=0)
    host.send(
        SECURITY,
        [
            ("InitiatorName", "iqn.1998-01.com.vmware:esx1-4fd0a1b2"),
            ("InitiatorAlias", "esx1.example.org"),
            ("TargetName", TARGET),
            ("SessionType", "Normal"),
            ("AuthMethod", "CHAP,None"),
        ],
        nsg=OPERATIONAL,
    )
    assert not host.send(
        OPERATIONAL,
        [
            ("HeaderDigest", "None,CRC32C"),
            ("DataDigest", "None,CRC32C"),
            ("DefaultTime2Wait", "0"),
            ("DefaultTime2Retain", "0"),
            ("IFMarker", "No"),
            ("OFMarker", "No"),
            ("ErrorRecoveryLevel", "0"),
            ("InitialR2T", "Yes"),
            ("ImmediateData", "Yes"),
            ("MaxBurstLength", "262144"),
            ("FirstBurstLength", "262144"),
            ("MaxOutstandingR2T", "8"),
            ("MaxConnections", "1"),
            ("DataPDUInOrder", "Yes"),
            ("DataSequenceInOrder", "Yes"),
            ("MaxRecvDataSegmentLength", "131072"),
        ],
    ).transit
    assert host.send(OPERATIONAL, b"", nsg=FULL).transit
    found = host.complete().parameters
    assert (found.initial_r2t, found.max_outstanding_r2t) == (True, 8)
    assert (found.default_time2wait, found.max_send_data_segment_length) == (2, 131072)
