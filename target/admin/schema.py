"""What the admin API takes, beside what it tells (``target/volume_info.py``)."""

from __future__ import annotations

from typing import Final

import msgspec

from target.chap_users import UserInfo
from target.scsi.access_list import AccessEntry
from target.target_info import TargetInfo
from target.volume_errors import Late
from target.volume_info import VolumeInfo

Size = str | int  # bytes, or "1G"
PROBLEM_JSON: Final = "application/problem+json"


class VolumeCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/volumes"""

    name: str
    size: Size
    block: int = 512
    chunk: Size = "4M"
    readonly: bool = False
    # Where its chunks go; null: to the node's own workers, or to its data directory without any.
    workers: list[str] | None = None
    lun: int | None = None  # null: the first that is free
    target: str = ""  # that has it; empty: the one that every node has


class VolumeMap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PUT /v1/volumes/NAME/lun"""

    target: str = ""  # that is to have it; empty: the one that every node has
    lun: int | None = None  # null: where it is, or the first that is free in another target
    force: bool = False  # although initiators are logged in and may be using it


class VolumeResize(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PATCH /v1/volumes/NAME"""

    size: Size


class VolumeMigrate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/volumes/NAME/migration"""

    workers: list[str]  # where its chunks are to be from now on


class TaskAbort(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/tasks/abort"""

    id: str


class TaskAborted(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/tasks/abort"""

    aborted: str  # its ID


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/report"""

    files: dict[str, str]  # by name; without secrets


class AccessEntries(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/acls"""

    acls: list[AccessEntry]  # of the catalog
    configured: list[AccessEntry]  # of this node; none of either: everybody may use everything


class TargetInfos(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/targets"""

    targets: list[TargetInfo]


class UserList(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/users"""

    users: list[str]  # CHAP users of the catalog: names, never secrets
    configured: list[str]  # those of this node's configuration


class MutualChap(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/mutual-chap"""

    mutual: UserInfo | None  # who this node is to an initiator that asks; null: nobody


class VolumeList(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/volumes"""

    volumes: list[VolumeInfo]


class PlacementInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where the chunks of a volume are."""

    volume: str
    workers: list[str]  # addresses
    chunks_total: int
    chunks: list[int]  # for chunks at even distances, the number in ``workers``


class PlacementList(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/placement"""

    placement: list[PlacementInfo]  # of volumes that workers keep


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Every answer with a status of 400 or more (RFC 9457; its type is about:blank)."""

    title: str  # of the status
    status: int
    detail: str  # one line


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """202: the change is made, and in force where it can be; these nodes follow when they can."""

    pending: list[Late]
