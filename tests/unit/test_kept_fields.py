"""Whatever is kept, and written again by who has read it, has no field that its reader drops
(docs/decisions/0031-formats-in-redis.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from target import datadir, reservation_file
from target.identity import NodeIdentity
from target.scsi.reservations.state import ReservationState, decode_state
from target.scsi.settings import SettingsState
from target.shared_catalog import Catalog
from workers import fences, rados_catalog, share_dir

KEPT: list[Any] = [
    *(Catalog, ReservationState, SettingsState),
    *(datadir._Catalog, reservation_file._File, NodeIdentity),
    *(fences._Kept, share_dir._Metadata, rados_catalog.Catalog),
]


def structs_in(found: object, seen: set[type]) -> Iterator[inspect.StructType]:
    """All that a type is made of."""
    if isinstance(found, inspect.StructType):
        if found.cls in seen:
            return
        seen.add(found.cls)
        yield found
    if isinstance(found, (list, tuple)):
        for one in found:
            yield from structs_in(one, seen)
    elif isinstance(found, msgspec.Struct):
        for name in found.__struct_fields__:
            yield from structs_in(getattr(found, name), seen)


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: f"{kept.__module__}.{kept.__name__}")
def test_a_field_of_a_later_version_is_refused_wherever_it_is(kept: type) -> None:
    found = list(structs_in(inspect.type_info(kept), set()))
    assert kept in {it.cls for it in found}
    assert [it.cls for it in found if not it.forbid_unknown_fields] == []


def test_reservations_with_one_cannot_be_read() -> None:
    document = msgspec.json.encode(ReservationState(generation=1))
    later = document.replace(b"{", b'{"only_on_tuesdays":true,', 1)
    assert decode_state(document).generation == 1
    with pytest.raises(ValueError, match="only_on_tuesdays"):
        decode_state(later)
