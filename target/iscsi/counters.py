"""What an iSCSI target has been asked and has answered, command data aside: plain numbers."""

from __future__ import annotations

from collections import Counter

from target.iscsi.constants import LoginStatus, RejectReason, TmfFunction, TmfResponse

OTHER_FUNCTION = 0  # none that RFC 7143 has


class IscsiCounters:
    """Of one target, all its sessions together."""

    def __init__(self) -> None:
        self.connections = 0  # accepted
        self.connections_refused = 0  # there were too many
        self.logins = 0  # that led to a session, discovery included
        self.logins_refused: Counter[LoginStatus] = Counter()
        self.rejects: Counter[RejectReason] = Counter()
        self.task_management: Counter[tuple[int, TmfResponse]] = Counter()  # by function

    def managed(self, function: int, response: TmfResponse) -> None:
        """A task management function has been answered."""
        known = function if function in _FUNCTIONS else OTHER_FUNCTION
        self.task_management[known, response] += 1


_FUNCTIONS = frozenset(int(function) for function in TmfFunction)
