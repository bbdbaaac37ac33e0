"""lunmesh.volumes, the catalog of a pool: which volumes there are, for all workers of the pool.

JSON with a format version, replaced as a whole (workers/rados_shares.py, rule 1).  A volume that is
being deleted stays in it until the last of its objects is gone, so that its name and its UUID are
not given to another one before.
"""

from __future__ import annotations

from typing import Final

import msgspec

from workers.format import format_of
from workers.rados_store import PREFIX
from workers.shares import ShareError, ShareFault, ShareInfo

FORMAT: Final = 1
VOLUMES: Final = f"{PREFIX}volumes"


class Volume(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One volume; no place, because every worker has all chunks."""

    name: str
    uuid: str  # 32 hexadecimal digits
    size_bytes: int
    chunk_bytes: int
    block_bytes: int
    deleting: bool = False


class Catalog(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """lunmesh.volumes"""

    format: int = FORMAT
    volumes: list[Volume] = []  # msgspec copies it


def decode_catalog(data: bytes | None) -> dict[str, Volume]:
    """lunmesh.volumes by name; raises ShareError."""
    if data is None:
        return {}
    try:
        if (version := format_of(data)) != FORMAT:
            raise ValueError(f"has format {version}, this version knows {FORMAT}")
        catalog = msgspec.json.decode(data, type=Catalog)
        for volume in catalog.volumes:
            info_of(volume).check()
    except ValueError as exc:  # msgspec's are
        raise ShareError(ShareFault.UNUSABLE, f"{VOLUMES}: {exc}") from exc
    return {volume.name: volume for volume in catalog.volumes}


def info_of(volume: Volume) -> ShareInfo:
    """Raises ValueError; what it says is not checked."""
    uuid = bytes.fromhex(volume.uuid)
    return ShareInfo(volume.name, uuid, volume.size_bytes, volume.chunk_bytes, volume.block_bytes)


def volume_of(info: ShareInfo) -> Volume:
    """What is kept of it."""
    return Volume(
        name=info.name,
        uuid=info.uuid.hex(),
        size_bytes=info.size,
        chunk_bytes=info.chunk_bytes,
        block_bytes=info.block_bytes,
    )


def same_volume(volumes: dict[str, Volume], info: ShareInfo) -> Volume:
    """The volume of this name and UUID; raises ShareError."""
    volume = volumes.get(info.name)
    if volume is None or volume.uuid != info.uuid.hex():
        raise ShareError(ShareFault.MISSING, f"volume {info.name} has been deleted")
    return volume


def encode_catalog(volumes: dict[str, Volume]) -> bytes:
    """lunmesh.volumes, in the order of their names."""
    catalog = Catalog(volumes=[volumes[name] for name in sorted(volumes)])
    return msgspec.json.format(msgspec.json.encode(catalog))
