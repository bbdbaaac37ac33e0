"""What a session negotiates, for tests."""

from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT_KEYS = {
    "InitialR2T": "No",
    "ImmediateData": "Yes",
    "MaxRecvDataSegmentLength": "262144",
    "MaxBurstLength": "262144",
    "FirstBurstLength": "65536",
    "MaxOutstandingR2T": "1",
    "ErrorRecoveryLevel": "0",
}
# The keys whose value a side declares; all others are settled by the answer to the offer.
DECLARED = {
    *("MaxRecvDataSegmentLength", "TargetPortalGroupTag", "TargetAlias", "TargetAddress"),
    *("TargetName", "InitiatorAlias", "InitiatorName", "SessionType"),
}


@dataclass
class Parameters:
    """What governs the session; the values before login are RFC 7143's defaults."""

    initial_r2t: bool = True
    immediate_data: bool = True
    max_burst: int = 262144
    first_burst: int = 65536
    max_outstanding_r2t: int = 1
    send_max: int = 8192  # the target's MaxRecvDataSegmentLength
    receive_max: int = 8192  # ours
    check_bursts: bool = True  # off for tgtd, which keeps to no MaxBurstLength in what it sends

    def settle(self, offered: Mapping[str, str], answered: Mapping[str, str]) -> None:
        settled = {key: value for key, value in answered.items() if key not in DECLARED}
        self.initial_r2t = settled.get("InitialR2T", "Yes") == "Yes"
        self.immediate_data = settled.get("ImmediateData", "Yes") == "Yes"
        self.max_burst = int(settled.get("MaxBurstLength", self.max_burst))
        self.first_burst = int(settled.get("FirstBurstLength", self.first_burst))
        self.first_burst = min(self.first_burst, self.max_burst)
        self.max_outstanding_r2t = int(settled.get("MaxOutstandingR2T", 1))
        self.send_max = int(answered.get("MaxRecvDataSegmentLength", self.send_max))
        self.receive_max = int(offered.get("MaxRecvDataSegmentLength", self.receive_max))
